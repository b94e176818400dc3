/* SPDX-License-Identifier: MIT */
/* Numbers with units out of text, and comparison of names that hold numbers. */
#include "base/text.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "godwit/error.h"

bool text_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value, GError **error)
{
    char *end = NULL;
    bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *digits = is_hex ? text + 2 : text;

    errno = 0;
    if (!(is_hex ? g_ascii_isxdigit(digits[0]) : g_ascii_isdigit(digits[0]))) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is not a number", text);
        return false;
    }
    uint64_t n = g_ascii_strtoull(text, &end, is_hex ? 16 : 10);
    if (*end != '\0') {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is not a number", text);
        return false;
    }
    if (errno == ERANGE || n < min || n > max) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "'%s' is not between %" G_GUINT64_FORMAT " and %" G_GUINT64_FORMAT, text, min,
                    max);
        return false;
    }
    *value = n;
    return true;
}

bool text_parse_size(const char *text, uint64_t *bytes, GError **error)
{
    static const char suffixes[] = "KMGT";
    char *end = NULL;
    unsigned shift = 0;

    errno = 0;
    if (!g_ascii_isdigit(text[0])) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is not a size", text);
        return false;
    }
    uint64_t n = g_ascii_strtoull(text, &end, 10);
    if (*end != '\0') {
        const char *suffix = strchr(suffixes, g_ascii_toupper(*end));
        if (suffix) {
            shift = 10 * (unsigned)(suffix - suffixes + 1);
            end++;
            end += end[0] == 'i' && end[1] == 'B';
        }
        end += *end == 'B';
        if (*end != '\0') {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'%s' is not a size", text);
            return false;
        }
    }
    if (errno == ERANGE || n > UINT64_MAX >> shift) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "size '%s' is too large", text);
        return false;
    }
    *bytes = n << shift;
    return true;
}

bool text_parse_duration(const char *text, uint64_t *ns, GError **error)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {
        {"ns", 1},       {"us", NS_PER_US},    {"ms", NS_PER_MS},
        {"s", NS_PER_S}, {"m", 60 * NS_PER_S}, {"h", 3600 * NS_PER_S},
    };
    char *end = NULL;

    if (g_ascii_isdigit(text[0])) {
        double n = g_ascii_strtod(text, &end);
        for (size_t i = 0; i < G_N_ELEMENTS(units); i++) {
            if (strcmp(end, units[i].name) != 0) {
                continue;
            }
            double value = n * (double)units[i].ns;
            if (!(value < 9.0e18)) {
                g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "duration '%s' is too long", text);
                return false;
            }
            *ns = (uint64_t)(value + 0.5);
            return true;
        }
    }
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                "'%s' is not a duration (a number and ns, us, ms, s, m or h)", text);
    return false;
}

static const char *skip_zeros(const char *digits)
{
    while (digits[0] == '0' && g_ascii_isdigit(digits[1])) {
        digits++;
    }
    return digits;
}

int text_compare_natural(const char *a, const char *b)
{
    const char *left = a;
    const char *right = b;

    while (*left && *right) {
        if (g_ascii_isdigit(*left) && g_ascii_isdigit(*right)) {
            left = skip_zeros(left);
            right = skip_zeros(right);
            size_t left_len = strspn(left, "0123456789");
            size_t right_len = strspn(right, "0123456789");
            int order = left_len != right_len ? (left_len < right_len ? -1 : 1)
                                              : strncmp(left, right, left_len);
            if (order) {
                return order;
            }
            left += left_len;
            right += right_len;
        } else if (*left != *right) {
            return (unsigned char)*left < (unsigned char)*right ? -1 : 1;
        } else {
            left++;
            right++;
        }
    }
    if (*left || *right) {
        return *left ? 1 : -1;
    }
    return strcmp(a, b); /* "a01" and "a1" are different names */
}
