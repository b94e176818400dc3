/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: texts from the command line and the monitor: numbers with units, device options,
 * URIs with filters, fault specifications. Nothing is opened.
 *
 * Input: u8 which parser, then the text. Checked: no value without success, no error with it.
 */
#include <inttypes.h>

#include "base/text.h"
#include "channel/channel_impl.h"
#include "fuzz.h"
#include "machine/config.h"
#include "wire/wire.h"

static void check_size(const char *text, GError **error)
{
    uint64_t bytes = 0;

    fuzz_check(text_parse_size(text, &bytes, error) == (*error == NULL));
}

static void check_duration(const char *text, GError **error)
{
    uint64_t ns = 0;

    fuzz_check(text_parse_duration(text, &ns, error) == (*error == NULL));
}

static void check_u64(const char *text, GError **error)
{
    uint64_t value = 5;

    if (text_parse_u64(text, 5, UINT64_C(1) << 40, &value, error))
        fuzz_check(value >= 5 && value <= UINT64_C(1) << 40);
}

static void check_uri(const char *text, GError **error)
{
    struct channel_uri uri;
    g_autofree char *host = NULL;
    g_autofree char *port = NULL;

    gw_channel_uri_is_multi(text);
    if (!channel_uri_parse(text, &uri, error))
        return;
    fuzz_check(uri.kind && uri.rest);
    channel_split_host_port(uri.rest, &host, &port, NULL);
    channel_uri_clear(&uri);
}

static void check_fault(const char *text, GError **error)
{
    fuzz_check(channel_fault_check(text, true, error) == (*error == NULL));
    channel_fault_check(text, false, NULL);
}

static void check_device(const char *kind, const char *text, GError **error)
{
    struct device_config *device = device_config_parse(kind, text, error);

    fuzz_check((device != NULL) == (*error == NULL));
    device_config_free(device);
}

static void check_net(const char *text, GError **error)
{
    check_device("net", text, error);
}

static void check_disk(const char *text, GError **error)
{
    check_device("disk", text, error);
}

static void check_vconsole(const char *text, GError **error)
{
    check_device("vconsole", text, error);
}

static void check_rng(const char *text, GError **error)
{
    check_device("rng", text, error);
}

static void check_compare(const char *text, GError **error)
{
    g_auto(GStrv) words = g_strsplit(text, " ", 2);

    if (words[0] && words[1])
        fuzz_check((text_compare_natural(words[0], words[1]) < 0) ==
                   (text_compare_natural(words[1], words[0]) > 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(const char *text, GError **error) = {
        check_size, check_duration, check_u64,      check_uri, check_fault,
        check_net,  check_disk,     check_vconsole, check_rng, check_compare,
    };
    struct fuzz_input in = {data, size};
    unsigned which = (unsigned)fuzz_take(&in, 1) % G_N_ELEMENTS(checks);
    g_autofree char *text = g_strndup((const char *)in.at, in.left);
    g_autoptr(GError) error = NULL;

    checks[which](text, &error);
    return 0;
}
