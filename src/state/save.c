/* SPDX-License-Identifier: MIT */
/*
 * Saving: one walk over an object drives any encoding.
 *
 * Constraints are checked here too. A device whose state breaks its own table would only be refused
 * by the other side; here the guest has not stopped for it yet, and the sentence names the culprit.
 */
#include "state/encoder.h"
#include "state/state_internal.h"

struct save {
    const char *device;
    struct state_encoder *encoder;
    GError **error;
};

static bool save_struct(struct save *save, const struct gw_state_desc *desc, void *object);

G_GNUC_PRINTF(3, 4)
static bool fail(struct save *save, const struct gw_field *field, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *why = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(save->error, GW_STATE_ERROR, GW_STATE_ERROR_SAVE, "device %s, field %s: %s",
                save->device, field_name(field), why);
    return false;
}

/* One element, named (a single value) or not (in an array). */
static bool save_element(struct save *save, const struct gw_field *field, const char *name,
                         void *elements, uint32_t index)
{
    const struct state_encoder_ops *ops = save->encoder->ops;

    if (field->kind == GW_KIND_STRUCT) {
        ops->begin_struct(save->encoder, name);
        bool ok = save_struct(save, field->desc, (uint8_t *)elements + index * field->stride);
        ops->end_struct(save->encoder);
        return ok;
    }
    uint64_t value = element_get(field, elements, index);
    g_autofree char *why = NULL;
    if (!field_value_ok(field, value, &why)) {
        return fail(save, field, "%s", why);
    }
    ops->number(save->encoder, name, field->kind, field->bits, value);
    return true;
}

static bool save_array(struct save *save, const struct gw_field *field, void *object)
{
    const struct state_encoder_ops *ops = save->encoder->ops;
    bool is_counted = field_is_counted(field);
    uint64_t n = is_counted ? count_get(field, object) : field->count;
    void *elements = field_elements(field, object);

    if (is_counted && n > field_count_max(field)) {
        return fail(save, field, "has %" G_GUINT64_FORMAT " elements, at most %u are allowed", n,
                    field_count_max(field));
    }
    if (n > 0 && !elements) {
        return fail(save, field, "has %" G_GUINT64_FORMAT " elements but points nowhere", n);
    }
    if (field->kind == GW_KIND_BYTES) {
        ops->bytes(save->encoder, field_name(field), elements, (uint32_t)n, is_counted);
        return true;
    }
    ops->begin_array(save->encoder, field_name(field), (uint32_t)n, is_counted);
    bool ok = true;
    for (uint32_t i = 0; i < n && ok; i++) {
        ok = save_element(save, field, NULL, elements, i);
    }
    ops->end_array(save->encoder);
    return ok;
}

static bool save_pointer(struct save *save, const struct gw_field *field, void *object)
{
    void *pointee = pointer_get(object, field);

    if (!pointee && field->is_required) {
        return fail(save, field, "points nowhere");
    }
    save->encoder->ops->presence(save->encoder, field_name(field), false, pointee != NULL);
    return !pointee || save_element(save, field, field_name(field), pointee, 0);
}

static bool save_list(struct save *save, const struct gw_field *field, void *object)
{
    const struct state_encoder_ops *ops = save->encoder->ops;
    GPtrArray *list = pointer_get(object, field);
    uint32_t n = list ? list->len : 0;

    if (n > field_count_max(field)) {
        return fail(save, field, "has %u elements, at most %u are allowed", n,
                    field_count_max(field));
    }
    ops->begin_array(save->encoder, field_name(field), n, true);
    bool ok = true;
    for (uint32_t i = 0; i < n && ok; i++) {
        ok = save_element(save, field, NULL, g_ptr_array_index(list, i), 0);
    }
    ops->end_array(save->encoder);
    return ok;
}

static bool save_temp(struct save *save, const struct gw_field *field, void *object)
{
    const struct state_encoder_ops *ops = save->encoder->ops;
    g_autofree void *temp = g_malloc0(field->desc->object_size);

    field->to_temp(object, temp);
    ops->begin_struct(save->encoder, field_name(field));
    bool ok = save_struct(save, field->desc, temp);
    ops->end_struct(save->encoder);
    state_clear(field->desc, temp);
    return ok;
}

static bool save_field(struct save *save, const struct gw_field *field, void *object)
{
    if (field->kind == GW_KIND_TEMP) {
        return save_temp(save, field, object);
    }
    switch (field->shape) {
    case GW_SHAPE_ONE:
        return save_element(save, field, field_name(field), field_elements(field, object), 0);
    case GW_SHAPE_POINTER:
        return save_pointer(save, field, object);
    case GW_SHAPE_LIST:
        return save_list(save, field, object);
    default:
        return save_array(save, field, object);
    }
}

static bool save_table(struct save *save, const struct gw_state_desc *desc, void *object)
{
    if (desc->pre_save) {
        GError *inner = NULL;
        if (!desc->pre_save(object, &inner)) {
            state_hook_failed("pre_save", &inner);
            g_propagate_prefixed_error(save->error, inner, "device %s, %s: ", save->device,
                                       desc->name);
            return false;
        }
    }
    for (const struct gw_field *field = desc->fields; field->name; field++) {
        if (!save_field(save, field, object)) {
            return false;
        }
    }
    return true;
}

static bool save_struct(struct save *save, const struct gw_state_desc *desc, void *object)
{
    const struct state_encoder_ops *ops = save->encoder->ops;

    if (!save_table(save, desc, object)) {
        return false;
    }
    for (size_t i = 0; desc->subsections && desc->subsections[i]; i++) {
        const struct gw_state_desc *sub = desc->subsections[i];
        bool is_present = !sub->is_needed || sub->is_needed(object);
        ops->presence(save->encoder, sub->name, true, is_present);
        if (is_present) {
            ops->begin_struct(save->encoder, sub->name);
            bool ok = save_table(save, sub, object);
            ops->end_struct(save->encoder);
            if (!ok) {
                return false;
            }
        }
    }
    return true;
}

bool state_encode(const struct gw_state_desc *desc, void *object, const char *device,
                  struct state_encoder *encoder, GError **error)
{
    struct save save = {.device = device, .encoder = encoder, .error = error};

    encoder->ops->begin_struct(encoder, NULL);
    bool ok = save_struct(&save, desc, object);
    encoder->ops->end_struct(encoder);
    return ok;
}

bool gw_state_save(const struct gw_state_registry *registry, uint32_t index, GByteArray *out,
                   GError **error)
{
    const struct state_entry *entry = registry_entry(registry, index);
    guint before = out->len;
    struct native_encoder encoder;

    native_encoder_init(&encoder, out);
    bool ok = state_encode(entry->desc, entry->object, entry->id, &encoder.base, error);
    if (ok && out->len - before > GW_STATE_SECTION_MAX) {
        g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_SAVE,
                    "device %s: its state takes %u bytes, at most %u are allowed", entry->id,
                    out->len - before, GW_STATE_SECTION_MAX);
        ok = false;
    }
    if (!ok) {
        g_byte_array_set_size(out, before);
    }
    return ok;
}

char *gw_state_save_json(const struct gw_state_registry *registry, uint32_t index, GError **error)
{
    const struct state_entry *entry = registry_entry(registry, index);
    struct json_encoder encoder;
    char *text = NULL;

    json_encoder_init(&encoder);
    if (state_encode(entry->desc, entry->object, entry->id, &encoder.base, error)) {
        text = state_json_text(encoder.root);
    }
    json_encoder_clear(&encoder);
    return text;
}
