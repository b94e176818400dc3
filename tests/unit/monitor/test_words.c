/* SPDX-License-Identifier: MIT */
/* Every state of a migration has one of QEMU's words in the monitor. */
#include "../expect.h"
#include "monitor/command.h"

static const char *const qemu_words[] = {
    "setup",     "active",          "device",          "completed",      "failed",
    "cancelled", "postcopy-active", "postcopy-paused", "pre-switchover", NULL};

static void test_every_state_has_a_word_of_qemu(void **state)
{
    for (int s = 1; s < GW_SOURCE_N_STATES; s++) {
        struct gw_source_status status = {.state = (enum gw_source_state)s};
        assert_non_null(migrate_source_word(&status));
        assert_true(g_strv_contains(qemu_words, migrate_source_word(&status)));
    }
    for (int s = 1; s < GW_DESTINATION_N_STATES; s++) {
        const char *word = migrate_destination_word((enum gw_destination_state)s);
        assert_non_null(word);
        assert_true(g_strv_contains(qemu_words, word));
    }
}

static void test_words_of_postcopy(void **state)
{
    struct gw_source_status status = {.state = GW_SOURCE_ROUNDS};

    assert_string_equal(migrate_source_word(&status), "active");
    status.is_waiting_before_switchover = true;
    assert_string_equal(migrate_source_word(&status), "pre-switchover");
    status = (struct gw_source_status){.state = GW_SOURCE_POSTCOPY};
    assert_string_equal(migrate_source_word(&status), "postcopy-active");
    status.state = GW_SOURCE_PAUSED;
    assert_string_equal(migrate_source_word(&status), "postcopy-paused");
    status.state = GW_SOURCE_LOST;
    assert_string_equal(migrate_source_word(&status), "failed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_state_has_a_word_of_qemu),
        cmocka_unit_test(test_words_of_postcopy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
