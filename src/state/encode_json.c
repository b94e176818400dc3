/* SPDX-License-Identifier: MIT */
/*
 * Device state as JSON, for people: structs are objects, buffers are hexadecimal text, absent
 * pointers are null, absent subsections are left out. Numbers beyond int64_t become decimal text,
 * since a JSON reader would round them.
 */
#include <stdlib.h>

#include "state/encoder.h"

static void attach(struct json_encoder *json, const char *name, json_t *value)
{
    if (json->open->len == 0) {
        json_decref(json->root);
        json->root = value;
        return;
    }
    json_t *parent = g_ptr_array_index(json->open, json->open->len - 1);
    if (json_is_array(parent)) {
        json_array_append_new(parent, value);
    } else {
        json_object_set_new_nocheck(parent, name ? name : "", value);
    }
}

static void begin(struct json_encoder *json, const char *name, json_t *value)
{
    attach(json, name, value);
    g_ptr_array_add(json->open, value);
}

static void begin_struct(struct state_encoder *encoder, const char *name)
{
    begin((struct json_encoder *)encoder, name, json_object());
}

static void begin_array(struct state_encoder *encoder, const char *name, uint32_t n,
                        bool is_counted)
{
    begin((struct json_encoder *)encoder, name, json_array());
}

static void end(struct state_encoder *encoder)
{
    struct json_encoder *json = (struct json_encoder *)encoder;

    g_ptr_array_set_size(json->open, (gint)json->open->len - 1);
}

static json_t *number_value(enum gw_field_kind kind, uint64_t value)
{
    if (kind == GW_KIND_BOOL) {
        return json_boolean(value);
    }
    if (kind == GW_KIND_UINT && value > INT64_MAX) {
        g_autofree char *text = g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)value);
        return json_string(text);
    }
    return json_integer((json_int_t)value);
}

static void number(struct state_encoder *encoder, const char *name, enum gw_field_kind kind,
                   uint32_t bits, uint64_t value)
{
    attach((struct json_encoder *)encoder, name, number_value(kind, value));
}

static void bytes(struct state_encoder *encoder, const char *name, const uint8_t *data, uint32_t n,
                  bool is_counted)
{
    static const char digits[] = "0123456789abcdef";
    g_autofree char *text = g_malloc((gsize)n * 2 + 1);

    for (uint32_t i = 0; i < n; i++) {
        text[2 * i] = digits[data[i] >> 4];
        text[2 * i + 1] = digits[data[i] & 15];
    }
    text[2 * (gsize)n] = '\0';
    attach((struct json_encoder *)encoder, name, json_string_nocheck(text));
}

static void presence(struct state_encoder *encoder, const char *name, bool is_subsection,
                     bool is_present)
{
    if (!is_present && !is_subsection) {
        attach((struct json_encoder *)encoder, name, json_null());
    }
}

static const struct state_encoder_ops json_ops = {
    .begin_struct = begin_struct,
    .end_struct = end,
    .begin_array = begin_array,
    .end_array = end,
    .number = number,
    .bytes = bytes,
    .presence = presence,
};

void json_encoder_init(struct json_encoder *encoder)
{
    encoder->base.ops = &json_ops;
    encoder->open = g_ptr_array_new();
    encoder->root = NULL;
}

void json_encoder_clear(struct json_encoder *encoder)
{
    g_ptr_array_free(encoder->open, TRUE);
    json_decref(encoder->root);
}

char *state_json_text(const json_t *tree)
{
    char *text = json_dumps(tree, JSON_INDENT(2));
    char *copy = g_strdup(text ? text : "null"); /* jansson's allocator need not be GLib's */

    free(text);
    return copy;
}
