/* SPDX-License-Identifier: MIT */
/* Device options: one table of kinds, variants and options, and the parser that obeys it. */
#include "machine/config.h"

#include <string.h>

#include "godwit/error.h"
#include "machine/device_kinds.h"

#define MAC_OPTION                                                                                 \
    {                                                                                              \
        "mac", "ADDRESS", false, "the guest's Ethernet address (52:54:00:67:77:00 and on)"         \
    }

static const struct device_kind device_kinds[] = {
    {"net",
     {{"tap",
       NULL,
       {{"ifname", "NAME", false, "a TAP interface, made if allowed and not there", true},
        {"fd", "NUMBER", false, "or a TAP descriptor that was inherited", true},
        MAC_OPTION}},
      {"user",
       NULL,
       {{"hostfwd", "RULE", false, "tcp:[ADDR]:PORT-[ADDR]:PORT, may be repeated", true},
        {"restrict", "on", false, "nothing but the forwarded ports", true},
        MAC_OPTION}},
      {"none", NULL, {MAC_OPTION}}}},
    {"disk",
     {{NULL,
       "path",
       {{"path", "FILE", true, "a raw image or a block device"},
        {"ro", NULL, false, "read-only"},
        {"serial", "TEXT", false, "what the guest reads as the disk's identity"},
        {"fault", "SPEC", false, "hangs and failures on purpose, for tests"}}}}},
    {"rng", {{"", NULL, {{NULL}}}}},
    {"balloon", {{"", NULL, {{NULL}}}}},
    {"vconsole", {{NULL, "backend", {{"backend", "SPEC", true, "as for --console"}}}}},
};

const struct device_kind *device_kind_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(device_kinds); i++)
        if (strcmp(device_kinds[i].name, name) == 0)
            return &device_kinds[i];
    return NULL;
}

static bool variant_is_used(const struct device_variant *variant)
{
    return variant->name || variant->first_key;
}

static const struct device_variant *find_variant(const struct device_kind *kind, const char *word,
                                                 GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(kind->variants); i++) {
        const struct device_variant *variant = &kind->variants[i];
        if (!variant_is_used(variant))
            break;
        if (variant->first_key || strcmp(variant->name, word) == 0)
            return variant;
        g_string_append_printf(known, "%s%s", known->len ? ", " : "", variant->name);
    }
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s \"%s\": expected %s", kind->name, word,
                known->len ? known->str : "no value");
    return NULL;
}

static const struct device_option *find_option(const struct device_variant *variant,
                                               const char *key)
{
    for (size_t i = 0; i < G_N_ELEMENTS(variant->options) && variant->options[i].key; i++)
        if (strcmp(variant->options[i].key, key) == 0)
            return &variant->options[i];
    return NULL;
}

static bool take_option(struct device_config *device, const char *word, GError **error)
{
    const char *equals = strchr(word, '=');
    g_autofree char *key = equals ? g_strndup(word, (gsize)(equals - word)) : g_strdup(word);
    const struct device_option *option = find_option(device->variant, key);

    if (!option) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: unknown option \"%s\"",
                    device->kind->name, key);
        return false;
    }
    if (!equals != !option->argument || (equals && equals[1] == '\0')) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: option \"%s\" takes %s value",
                    device->kind->name, key, option->argument ? "a" : "no");
        return false;
    }
    if (option->is_backend) {
        g_autofree char *before = g_steal_pointer(&device->backend);
        device->backend = g_strdup_printf("%s,%s", before, word);
    }
    if (!g_hash_table_insert(device->options, g_strdup(key), g_strdup(equals ? equals + 1 : "")) &&
        !option->is_backend) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: option \"%s\" is given twice",
                    device->kind->name, key);
        return false;
    }
    return true;
}

struct device_config *device_config_parse(const char *kind_name, const char *text, GError **error)
{
    const struct device_kind *kind = device_kind_find(kind_name);
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    const char *first = words[0] ? words[0] : "";
    g_autoptr(device_config_t) device = g_new0(struct device_config, 1);

    g_assert(kind);
    device->kind = kind;
    device->options = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    device->variant = find_variant(kind, first, error);
    if (!device->variant)
        return NULL;
    device->backend = g_strdup(device->variant->name ? device->variant->name : "");
    if (device->variant->first_key && *first)
        g_hash_table_insert(device->options, g_strdup(device->variant->first_key), g_strdup(first));
    for (char **word = words + (words[0] != NULL); *word; word++)
        if (!take_option(device, *word, error))
            return NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(device->variant->options); i++) {
        const struct device_option *option = &device->variant->options[i];
        if (option->key && option->is_required && !device_config_has(device, option->key)) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s: option \"%s\" is missing",
                        kind->name, option->key);
            return NULL;
        }
    }
    return g_steal_pointer(&device);
}

void device_config_free(struct device_config *device)
{
    if (!device)
        return;
    g_hash_table_unref(device->options);
    g_free(device->backend);
    g_free(device);
}

const char *device_config_get(const struct device_config *device, const char *key)
{
    return g_hash_table_lookup(device->options, key);
}

bool device_config_has(const struct device_config *device, const char *key)
{
    return g_hash_table_contains(device->options, key);
}

char *device_config_help(void)
{
    GString *out = g_string_new("Devices:\n");

    for (size_t k = 0; k < G_N_ELEMENTS(device_kinds); k++)
        for (size_t v = 0; v < G_N_ELEMENTS(device_kinds[k].variants); v++) {
            const struct device_variant *variant = &device_kinds[k].variants[v];
            if (!variant_is_used(variant))
                break;
            g_string_append_printf(out, "  --%s", device_kinds[k].name);
            if (variant->name && *variant->name)
                g_string_append_printf(out, " %s", variant->name);
            for (size_t i = 0; i < G_N_ELEMENTS(variant->options) && variant->options[i].key; i++) {
                const struct device_option *option = &variant->options[i];
                if (variant->first_key && strcmp(option->key, variant->first_key) == 0) {
                    g_string_append_printf(out, " %s", option->argument);
                    continue;
                }
                g_string_append_printf(out, "%s,%s%s%s%s", option->is_required ? "" : "[",
                                       option->key, option->argument ? "=" : "",
                                       option->argument ? option->argument : "",
                                       option->is_required ? "" : "]");
            }
            g_string_append_c(out, '\n');
            for (size_t i = 0; i < G_N_ELEMENTS(variant->options) && variant->options[i].key; i++)
                g_string_append_printf(out, "      %-10s %s\n", variant->options[i].key,
                                       variant->options[i].help);
        }
    return g_string_free(out, FALSE);
}
