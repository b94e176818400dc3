/* SPDX-License-Identifier: MIT */
/* What tests ask of functions that fill a GError; brings cmocka and what it wants before it. */
#ifndef TEST_EXPECT_H
#define TEST_EXPECT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glib.h>
#include <stdbool.h>
#include <string.h>

#include "godwit/error.h"

/* Fails the test with the message of the error. */
#define assert_ok(expression, error)                                                               \
    do {                                                                                           \
        bool is_ok_ = (expression);                                                                \
        if (!is_ok_) {                                                                             \
            fail_msg("%s: %s", #expression, (error) != NULL ? (error)->message : "no error set");  \
        }                                                                                          \
        assert_null(error);                                                                        \
    } while (0)

/* The error must have the code and contain the text; clears it. */
static inline void assert_error(GError **error, int code, const char *text)
{
    assert_non_null(*error);
    if (text[0] != '\0' && strstr((*error)->message, text) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", (*error)->message, text);
    }
    assert_int_equal((*error)->domain, GW_ERROR);
    assert_int_equal((*error)->code, code);
    g_clear_error(error);
}

#endif
