/* SPDX-License-Identifier: MIT */
/* The line in which a migration is shown. */
#include <jansson.h>

#include "../expect.h"
#include "cli/progress.h"

struct line_case {
    const char *info;
    const char *const says[6];
    const char *silent_on; /* or NULL */
};

static const struct line_case cases[] = {
    {"{'state':'rounds','status':'active','role':'source','round':2,'bandwidth':104857600,"
     "'dirty-rate':1048576,'expected-left-ns':1500000000,'converging':true,"
     "'ram':{'total':100,'remaining':25}}",
     {"[###############.....]  75%", "rounds  round 2", "100.0 MiB/s", "dirty 1.0 MiB/s",
      "left 1.5 s"},
     "godwit"},
    {"{'state':'postcopy','status':'postcopy-active','role':'source','round':1,'pages-left':512,"
     "'bandwidth':1048576,'expected-left-ns':2000000000,"
     "'ram':{'total':4194304,'remaining':0,'postcopy-requests':7}}",
     {"50%  postcopy", "512 pages left", "7 asked for", "1.0 MiB/s", "left 2.0 s"},
     "godwit"},
    {"{'state':'postcopy','status':'postcopy-active','role':'destination','round':1,"
     "'pages-missing':9,'faults':{'count':3,'p99-ns':1500000},'ram':{}}",
     {"9 pages left", "3 faults, 99 % within 1.5 ms"},
     "asked for"},
    {"{'state':'postcopy-paused','status':'postcopy-paused','role':'source','round':1,"
     "'pages-left':512,'ram':{'total':4194304}}",
     {"512 pages left", "no link, trying again", "godwit recover VM [URI]",
      "godwit resolve VM release"},
     NULL},
    {"{'state':'postcopy-paused','status':'postcopy-paused','role':'destination','round':1,"
     "'pages-missing':512,'ram':{}}",
     {"512 pages left", "godwit recover VM URI"},
     "resolve"},
    {"{'state':'reconnecting','status':'active','role':'source','round':3,'ram':{}}",
     {"reconnecting  round 3", "the guest runs here", "godwit cancel VM"},
     "dirty"},
    {"{'state':'rounds','status':'active','role':'source','round':3,'bandwidth-lack':1048576,"
     "'converging':false,'postcopy-lack':'the destination forbids it','ram':{}}",
     {"the link lacks 1.0 MiB/s; no post-copy: the destination forbids it"},
     "left"},
    {"{'state':'rounds','status':'pre-switchover','role':'source','round':3,'ram':{}}",
     {"godwit switchover VM", "godwit cancel VM"},
     "converging"},
};

static void test_lines(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = g_strdelimit(g_strdup(cases[i].info), "'", '"');
        json_t *info = json_loads(text, 0, NULL);
        assert_non_null(info);
        g_autofree char *line = progress_line(info);
        for (size_t k = 0; k < G_N_ELEMENTS(cases[i].says) && cases[i].says[k]; k++)
            if (!strstr(line, cases[i].says[k]))
                fail_msg("\"%s\" does not say \"%s\"", line, cases[i].says[k]);
        if (cases[i].silent_on && strstr(line, cases[i].silent_on))
            fail_msg("\"%s\" says \"%s\"", line, cases[i].silent_on);
        json_decref(info);
    }
}

static void test_waits(void **state)
{
    json_t *info =
        json_pack("{s:{s:i, s:[{s:s, s:i, s:i, s:i, s:i, s:i}, {s:s, s:i}]}}", "faults", "count", 3,
                  "threads", "name", "hart-0", "count", 3, "stall-ns", 1234567, "p50-ns", 1000,
                  "p99-ns", 1000000, "max-ns", 1200000, "name", "others", "count", 1);
    g_autofree char *table = progress_waits(info);
    g_auto(GStrv) lines = g_strsplit(table, "\n", -1);
    json_t *nothing = json_pack("{s:{s:[]}}", "faults", "threads");
    g_autofree char *none = progress_waits(nothing);

    assert_int_equal(g_strv_length(lines), 6);
    assert_string_equal(lines[1], "vCPU waits for pages (times in ms)");
    assert_string_equal(
        lines[2], "  thread             faults       in all    half in    99 % in    longest");
    assert_string_equal(
        lines[3], "  hart-0                  3        1.235      0.001      1.000      1.200");
    assert_non_null(strstr(lines[4], "  others                  1        0.000 "));
    assert_string_equal(none, "");
    json_decref(info);
    json_decref(nothing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines), cmocka_unit_test(test_waits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
