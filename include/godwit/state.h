/* SPDX-License-Identifier: MIT */
/*
 * Device state, described once: a table of fields gives save, load, schema, comparison, checks.
 *
 * Use: a device declares
 *
 *     static const struct gw_field uart_fields[] = {
 *         GW_U8(struct uart, lcr),
 *         GW_U16(struct uart, divisor, .since = 2, .fallback = 1),
 *         GW_BOOL(struct uart, thr_irq_pending),
 *         GW_VBUFFER(struct uart, rx_fifo, rx_len),
 *         GW_FIELDS_END,
 *     };
 *     const struct gw_state_desc uart_state = {
 *         .name = "ns16550a", .version = 2, .object_size = sizeof(struct uart),
 *         .priority = GW_PRIORITY_DEVICE, .fields = uart_fields, .validate = uart_validate,
 *         .post_load = uart_post_load,
 *     };
 *
 * docs/device-state.md is the guide; this header is the contract.
 *
 * Loading is decode -> check -> commit -> arm. Decoding and checking work on a shadow copy of the
 * object; commit exchanges the described members (and only them) with the object's; a failure at
 * any step leaves every object of the machine as it was. arm() runs later, when the machine
 * starts to run.
 *
 * Fields of the writer and the reader are matched by name, never by position: the writer's schema
 * comes first (struct gw_schema below), the reader makes a plan out of it and says in one list
 * what does not fit, before anything else is sent.
 *
 * Threads: tables are constant. A registry is built by one thread and then only read. Saving,
 * loading and arming touch the registered objects and are called while nothing else uses them
 * (vCPUs stopped, device locks held by the caller where a device has its own threads). Schemas,
 * plans and loads belong to one thread at a time, any thread.
 */
#ifndef GODWIT_STATE_H
#define GODWIT_STATE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "godwit/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Limits of everything that comes from the other side, and of our own tables. */
#define GW_STATE_NAME_MAX         95         /* bytes of a type, field, instance or property name */
#define GW_STATE_DEPTH_MAX        8          /* structs in structs, the device itself being 1 */
#define GW_STATE_FIELDS_MAX       512        /* fields of one type, and subsections of one type */
#define GW_STATE_COUNT_MAX        (1u << 20) /* elements of an array or list */
#define GW_STATE_BUFFER_MAX       (1u << 26) /* bytes of one buffer */
#define GW_STATE_SECTION_MAX      (1u << 28) /* bytes of one device's section */
#define GW_SCHEMA_TYPES_MAX       1024
#define GW_SCHEMA_DEVICES_MAX     4096
#define GW_SCHEMA_PROPERTIES_MAX  4096
#define GW_SCHEMA_VALUES_MAX      1024 /* values of one property */
#define GW_SCHEMA_VALUE_BYTES_MAX 1024
#define GW_SCHEMA_BYTES_MAX       (4u << 20) /* of an encoded schema */

/* What the codes of GW_ERROR mean here; hooks of devices use GW_STATE_ERROR_VALUE. */
#define GW_STATE_ERROR GW_ERROR
enum gw_state_error {
    GW_STATE_ERROR_TABLE = GW_ERROR_INVALID,  /* a description or registration of ours is wrong */
    GW_STATE_ERROR_SAVE = GW_ERROR_FAILED,    /* the object's state breaks its own description */
    GW_STATE_ERROR_SCHEMA = GW_ERROR_CORRUPT, /* the writer's schema is malformed */
    GW_STATE_ERROR_INCOMPATIBLE = GW_ERROR_REFUSED, /* the writer's machine does not fit ours */
    GW_STATE_ERROR_DATA = GW_ERROR_CORRUPT,         /* a section is malformed: cut, too long */
    GW_STATE_ERROR_VALUE = GW_ERROR_REFUSED,   /* a value breaks a constraint, validate() refused */
    GW_STATE_ERROR_UNKNOWN = GW_ERROR_REFUSED, /* the data holds an unknown subsection */
    GW_STATE_ERROR_ORDER = GW_ERROR_STATE, /* calls or sections missing, repeated, out of order */
};

/* Higher loads earlier. */
enum gw_state_priority {
    GW_PRIORITY_LATE = 0,
    GW_PRIORITY_DEVICE = 100,
    GW_PRIORITY_BUS = 200,     /* PCI host and the like */
    GW_PRIORITY_IRQCHIP = 300, /* PLIC, ACLINT */
    GW_PRIORITY_CPU = 400,
    GW_PRIORITY_CLOCK = 500,
};

/* ---- Descriptions ------------------------------------------------------------------------- */

enum gw_field_kind {
    GW_KIND_END = 0,
    GW_KIND_UINT,
    GW_KIND_INT,
    GW_KIND_BOOL,
    GW_KIND_TIMER, /* int64_t: absolute deadline in the guest's time, -1 when not set */
    GW_KIND_BYTES,
    GW_KIND_STRUCT,
    GW_KIND_TEMP, /* reader and writer tables only; travels as a struct */
};

enum gw_field_shape {
    GW_SHAPE_ONE = 0,
    GW_SHAPE_ARRAY,   /* count elements inline */
    GW_SHAPE_VARRAY,  /* inline room for count elements, the count member says how many are used */
    GW_SHAPE_ALLOC,   /* pointer to as many g_malloc'ed elements as the count member says */
    GW_SHAPE_POINTER, /* pointer to one g_malloc'ed struct, or NULL */
    GW_SHAPE_LIST,    /* GPtrArray of g_malloc'ed structs */
};

struct gw_state_desc;

/* One row of a table. Rows are written with the macros below; the members after "options" may be
 * given as trailing designated initialisers: GW_U8(struct uart, lcr, .since = 2, .max = 7). */
struct gw_field {
    const char *name;
    enum gw_field_kind kind;
    enum gw_field_shape shape;
    size_t offset;
    size_t stride;       /* bytes of one element in memory */
    size_t count;        /* elements in the inline storage */
    size_t count_offset; /* VARRAY, ALLOC: the member that counts, and its bytes */
    size_t count_width;
    unsigned shift; /* GW_BITS: place in the word */
    unsigned bits;  /* bits of the value: 8 * stride unless GW_BITS or bool */
    bool is_bits;
    bool must_equal; /* GW_EQUAL_*: compared with the object's value, never written */
    const struct gw_state_desc *desc;
    void (*to_temp)(const void *object, void *temp);
    bool (*check_temp)(const void *shadow, const void *temp, GError **error);
    void (*from_temp)(void *object, const void *temp);

    /* options */
    const char *label;  /* name on the wire, when it is not the member's name */
    const char *was;    /* also matches a writer's field of this (former) name */
    const char *from;   /* look first in the writer's instance of this id (a field that moved) */
    uint32_t since;     /* version of the description that brought the field; a writer of an older
                           version lacks it, then fallback is taken. 0 and 1: always there */
    uint64_t fallback;  /* value (of each element) when the writer lacks the field; not 0 implies
                           has_fallback. Variable arrays, lists and pointers become empty, structs
                           get their own fields' fallbacks */
    bool has_fallback;  /* fallback may be used whatever the writer's version */
    int64_t min;        /* not 0: smallest value */
    uint64_t max;       /* not 0: largest value (read as int64_t for signed kinds) */
    bool has_range;     /* min and max both hold, 0 included */
    uint64_t mask;      /* not 0: only these bits may be set */
    uint32_t count_max; /* elements at most; required for ALLOC and LIST, where it bounds memory */
    bool is_droppable;  /* a reader that does not know the field may ignore it */
    bool is_required;   /* POINTER: NULL is refused */
    void (*free_element)(void *element); /* LIST, POINTER: frees an element, all of it, if elements
                          own more than their description says; also called for elements that load
                          has made, whose other members are zero. Default: what is described */
};

struct gw_state_desc {
    const char *name; /* type name on the wire, stable for ever */
    uint32_t version; /* of the description, from 1; fields say since which version they exist */
    uint32_t min_version;          /* oldest writer's version that is accepted; 0: any */
    size_t object_size;            /* sizeof the C struct the offsets refer to */
    int priority;                  /* enum gw_state_priority; 0 means GW_PRIORITY_LATE */
    const struct gw_field *fields; /* ends with GW_FIELDS_END */
    const struct gw_state_desc *const *subsections; /* NULL-terminated, or NULL; offsets of their
                                                       fields refer to the same object */
    bool (*is_needed)(const void *object);          /* subsections only; NULL: always */
    bool (*pre_save)(void *object, GError **error); /* may refresh members from live sources */
    /* Cross-field rules, before commit. shadow is a byte copy of the object with the described
     * members replaced by what came; described pointers point to what came. */
    bool (*validate)(const void *shadow, GError **error);
    /* After commit: derived members. When it (or another device's) fails, the old state comes back
     * and post_load is called once more for it. */
    bool (*post_load)(void *object, GError **error);
    void (*arm)(void *object);  /* machine about to run: timers, interrupts, host resources */
    const char *const *dropped; /* names of former fields to ignore, NULL-terminated, or NULL */
};

/* Compile-time check inside an initialiser: 0 when ok. */
#define GW_CHECK_(ok, why)                                                                         \
    (0 * sizeof(struct {                                                                           \
         _Static_assert(ok, why);                                                                  \
         int unused_;                                                                              \
     }))
#define GW_M_(S, m)        (((S *)0)->m)
/* The comma drops _Atomic and qualifiers. */
#define GW_VALUE_TYPE_(x)  __typeof__((void)0, (x))
#define GW_IS_UNSIGNED_(x) ((GW_VALUE_TYPE_(x)) - 1 > 0)
#define GW_IS_BOOL_(x)     __builtin_types_compatible_p(GW_VALUE_TYPE_(x), bool)
#define GW_INT_OK_(x, is_signed)                                                                   \
    GW_CHECK_((is_signed) ? !GW_IS_UNSIGNED_(x) : (GW_IS_UNSIGNED_(x) && !GW_IS_BOOL_(x)),         \
              "the member's type has the other sign")

#define GW_SCALAR_(S, m, K, bytes, is_signed, ...)                                                 \
    {                                                                                              \
        .name = #m, .kind = K, .shape = GW_SHAPE_ONE, .stride = (bytes), .count = 1,               \
        .bits = 8 * (bytes),                                                                       \
        .offset = offsetof(S, m) + GW_INT_OK_(GW_M_(S, m), is_signed) +                            \
                  GW_CHECK_(sizeof(GW_M_(S, m)) == (bytes), "the member has another width"),       \
        __VA_ARGS__                                                                                \
    }
#define GW_ARRAY_(S, m, K, bytes, is_signed, ...)                                                  \
    {                                                                                              \
        .name = #m, .kind = K, .shape = GW_SHAPE_ARRAY, .stride = (bytes), .bits = 8 * (bytes),    \
        .count = sizeof(GW_M_(S, m)) / (bytes),                                                    \
        .offset = offsetof(S, m) + GW_INT_OK_(GW_M_(S, m)[0], is_signed) +                         \
                  GW_CHECK_(sizeof(GW_M_(S, m)[0]) == (bytes), "the elements have another width"), \
        __VA_ARGS__                                                                                \
    }
#define GW_COUNT_(S, n)                                                                            \
    .count_offset = offsetof(S, n) + GW_CHECK_(GW_IS_UNSIGNED_(GW_M_(S, n)), "unsigned count"),    \
    .count_width = sizeof(GW_M_(S, n))
#define GW_VARRAY_(S, m, n, K, bytes, is_signed, ...)                                              \
    {                                                                                              \
        .name = #m, .kind = K, .shape = GW_SHAPE_VARRAY, .stride = (bytes), .bits = 8 * (bytes),   \
        .count = sizeof(GW_M_(S, m)) / (bytes), GW_COUNT_(S, n),                                   \
        .offset = offsetof(S, m) + GW_INT_OK_(GW_M_(S, m)[0], is_signed) +                         \
                  GW_CHECK_(sizeof(GW_M_(S, m)[0]) == (bytes), "the elements have another width"), \
        __VA_ARGS__                                                                                \
    }
#define GW_ALLOC_(S, m, n, K, bytes, is_signed, ...)                                               \
    {                                                                                              \
        .name = #m, .kind = K, .shape = GW_SHAPE_ALLOC, .stride = (bytes), .bits = 8 * (bytes),    \
        GW_COUNT_(S, n),                                                                           \
        .offset = offsetof(S, m) + GW_INT_OK_(*GW_M_(S, m), is_signed) +                           \
                  GW_CHECK_(sizeof(*GW_M_(S, m)) == (bytes), "the elements have another width") +  \
                  GW_CHECK_(sizeof(GW_M_(S, m)) == sizeof(void *), "the member is no pointer"),    \
        __VA_ARGS__                                                                                \
    }

/* Scalars. Enumerations of int size are GW_U32, or better GW_ENUM. */
#define GW_U8(S, m, ...)  GW_SCALAR_(S, m, GW_KIND_UINT, 1, 0, __VA_ARGS__)
#define GW_U16(S, m, ...) GW_SCALAR_(S, m, GW_KIND_UINT, 2, 0, __VA_ARGS__)
#define GW_U32(S, m, ...) GW_SCALAR_(S, m, GW_KIND_UINT, 4, 0, __VA_ARGS__)
#define GW_U64(S, m, ...) GW_SCALAR_(S, m, GW_KIND_UINT, 8, 0, __VA_ARGS__)
#define GW_I8(S, m, ...)  GW_SCALAR_(S, m, GW_KIND_INT, 1, 1, __VA_ARGS__)
#define GW_I16(S, m, ...) GW_SCALAR_(S, m, GW_KIND_INT, 2, 1, __VA_ARGS__)
#define GW_I32(S, m, ...) GW_SCALAR_(S, m, GW_KIND_INT, 4, 1, __VA_ARGS__)
#define GW_I64(S, m, ...) GW_SCALAR_(S, m, GW_KIND_INT, 8, 1, __VA_ARGS__)
#define GW_BOOL(S, m, ...)                                                                         \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_BOOL, .shape = GW_SHAPE_ONE, .stride = 1, .count = 1,          \
        .bits = 1,                                                                                 \
        .offset = offsetof(S, m) + GW_CHECK_(GW_IS_BOOL_(GW_M_(S, m)), "the member is no bool"),   \
        __VA_ARGS__                                                                                \
    }
/* An unsigned member (or an enum) of any width that holds 0 .. n_values-1. */
#define GW_ENUM(S, m, n_values, ...)                                                               \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_UINT, .shape = GW_SHAPE_ONE, .stride = sizeof(GW_M_(S, m)),    \
        .count = 1, .bits = 8 * sizeof(GW_M_(S, m)), .max = (uint64_t)(n_values)-1,                \
        .has_range = true, .offset = offsetof(S, m) + GW_INT_OK_(GW_M_(S, m), 0), __VA_ARGS__      \
    }
/* int64_t member: absolute deadline in guest ns (or guest ticks), or -1 for "not set". */
#define GW_TIMER(S, m, ...) GW_SCALAR_(S, m, GW_KIND_TIMER, 8, 1, __VA_ARGS__)
/* Part of an unsigned word: n_bits bits from bit low on. Several rows may share one word; other
 * bits of the word are not touched. */
#define GW_BITS(S, m, bits_name, low, n_bits, ...)                                                 \
    {                                                                                              \
        .name = (bits_name), .kind = GW_KIND_UINT, .shape = GW_SHAPE_ONE,                          \
        .stride = sizeof(GW_M_(S, m)), .count = 1, .shift = (low), .bits = (n_bits),               \
        .is_bits = true,                                                                           \
        .offset = offsetof(S, m) + GW_INT_OK_(GW_M_(S, m), 0) +                                    \
                  GW_CHECK_((n_bits) > 0 && (low) + (n_bits) <= 8 * sizeof(GW_M_(S, m)),           \
                            "the bits lie outside of the word"),                                   \
        __VA_ARGS__                                                                                \
    }
/* Must have the same value on both sides; refused before the first page where it is known then. */
#define GW_EQUAL_U8(S, m, ...) GW_SCALAR_(S, m, GW_KIND_UINT, 1, 0, .must_equal = true, __VA_ARGS__)
#define GW_EQUAL_U16(S, m, ...)                                                                    \
    GW_SCALAR_(S, m, GW_KIND_UINT, 2, 0, .must_equal = true, __VA_ARGS__)
#define GW_EQUAL_U32(S, m, ...)                                                                    \
    GW_SCALAR_(S, m, GW_KIND_UINT, 4, 0, .must_equal = true, __VA_ARGS__)
#define GW_EQUAL_U64(S, m, ...)                                                                    \
    GW_SCALAR_(S, m, GW_KIND_UINT, 8, 0, .must_equal = true, __VA_ARGS__)
#define GW_EQUAL_I32(S, m, ...) GW_SCALAR_(S, m, GW_KIND_INT, 4, 1, .must_equal = true, __VA_ARGS__)
#define GW_EQUAL_I64(S, m, ...) GW_SCALAR_(S, m, GW_KIND_INT, 8, 1, .must_equal = true, __VA_ARGS__)

/* Fixed arrays: every element of an inline array. Constraints hold for each element. */
#define GW_U8_ARRAY(S, m, ...)    GW_ARRAY_(S, m, GW_KIND_UINT, 1, 0, __VA_ARGS__)
#define GW_U16_ARRAY(S, m, ...)   GW_ARRAY_(S, m, GW_KIND_UINT, 2, 0, __VA_ARGS__)
#define GW_U32_ARRAY(S, m, ...)   GW_ARRAY_(S, m, GW_KIND_UINT, 4, 0, __VA_ARGS__)
#define GW_U64_ARRAY(S, m, ...)   GW_ARRAY_(S, m, GW_KIND_UINT, 8, 0, __VA_ARGS__)
#define GW_I8_ARRAY(S, m, ...)    GW_ARRAY_(S, m, GW_KIND_INT, 1, 1, __VA_ARGS__)
#define GW_I16_ARRAY(S, m, ...)   GW_ARRAY_(S, m, GW_KIND_INT, 2, 1, __VA_ARGS__)
#define GW_I32_ARRAY(S, m, ...)   GW_ARRAY_(S, m, GW_KIND_INT, 4, 1, __VA_ARGS__)
#define GW_I64_ARRAY(S, m, ...)   GW_ARRAY_(S, m, GW_KIND_INT, 8, 1, __VA_ARGS__)
#define GW_TIMER_ARRAY(S, m, ...) GW_ARRAY_(S, m, GW_KIND_TIMER, 8, 1, __VA_ARGS__)
#define GW_BOOL_ARRAY(S, m, ...)                                                                   \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_BOOL, .shape = GW_SHAPE_ARRAY, .stride = 1, .bits = 1,         \
        .count = sizeof(GW_M_(S, m)),                                                              \
        .offset = offsetof(S, m) + GW_CHECK_(GW_IS_BOOL_(GW_M_(S, m)[0]), "no array of bool"),     \
        __VA_ARGS__                                                                                \
    }

/* Variable arrays: as many elements as the unsigned member n says. VARRAY lives inline and is
 * bounded by its room; ALLOC is a pointer, allocated by load with g_malloc, freed by a later load,
 * and needs .count_max and a count of its own. The array carries its count: n needs no row. If a
 * VARRAY's n has a row (to constrain it) or belongs to several VARRAYs, all must agree. */
#define GW_U8_VARRAY(S, m, n, ...)  GW_VARRAY_(S, m, n, GW_KIND_UINT, 1, 0, __VA_ARGS__)
#define GW_U16_VARRAY(S, m, n, ...) GW_VARRAY_(S, m, n, GW_KIND_UINT, 2, 0, __VA_ARGS__)
#define GW_U32_VARRAY(S, m, n, ...) GW_VARRAY_(S, m, n, GW_KIND_UINT, 4, 0, __VA_ARGS__)
#define GW_U64_VARRAY(S, m, n, ...) GW_VARRAY_(S, m, n, GW_KIND_UINT, 8, 0, __VA_ARGS__)
#define GW_I32_VARRAY(S, m, n, ...) GW_VARRAY_(S, m, n, GW_KIND_INT, 4, 1, __VA_ARGS__)
#define GW_I64_VARRAY(S, m, n, ...) GW_VARRAY_(S, m, n, GW_KIND_INT, 8, 1, __VA_ARGS__)
#define GW_U8_ALLOC(S, m, n, ...)   GW_ALLOC_(S, m, n, GW_KIND_UINT, 1, 0, __VA_ARGS__)
#define GW_U16_ALLOC(S, m, n, ...)  GW_ALLOC_(S, m, n, GW_KIND_UINT, 2, 0, __VA_ARGS__)
#define GW_U32_ALLOC(S, m, n, ...)  GW_ALLOC_(S, m, n, GW_KIND_UINT, 4, 0, __VA_ARGS__)
#define GW_U64_ALLOC(S, m, n, ...)  GW_ALLOC_(S, m, n, GW_KIND_UINT, 8, 0, __VA_ARGS__)

/* Buffers: bytes that are only copied. VBUFFER: inline room, n bytes of it used. ALLOC_BUFFER:
 * pointer and length, allocated by load, needs .count_max. */
#define GW_BUFFER(S, m, ...)                                                                       \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_BYTES, .shape = GW_SHAPE_ARRAY, .stride = 1, .bits = 8,        \
        .count = sizeof(GW_M_(S, m)),                                                              \
        .offset = offsetof(S, m) + GW_CHECK_(sizeof(GW_M_(S, m)[0]) == 1, "no array of bytes"),    \
        __VA_ARGS__                                                                                \
    }
#define GW_EQUAL_BUFFER(S, m, ...) GW_BUFFER(S, m, .must_equal = true, __VA_ARGS__)
#define GW_VBUFFER(S, m, n, ...)                                                                   \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_BYTES, .shape = GW_SHAPE_VARRAY, .stride = 1, .bits = 8,       \
        .count = sizeof(GW_M_(S, m)), GW_COUNT_(S, n),                                             \
        .offset = offsetof(S, m) + GW_CHECK_(sizeof(GW_M_(S, m)[0]) == 1, "no array of bytes"),    \
        __VA_ARGS__                                                                                \
    }
#define GW_ALLOC_BUFFER(S, m, n, ...)                                                              \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_BYTES, .shape = GW_SHAPE_ALLOC, .stride = 1, .bits = 8,        \
        GW_COUNT_(S, n),                                                                           \
        .offset = offsetof(S, m) + GW_CHECK_(_Generic(GW_M_(S, m), uint8_t * : 1, char * : 1,      \
                                                      void * : 1, default : 0),                    \
                                             "no pointer to bytes"),                               \
        __VA_ARGS__                                                                                \
    }

/* Structs described by their own table (d: const struct gw_state_desc *). */
#define GW_STRUCT(S, m, d, ...)                                                                    \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_STRUCT, .shape = GW_SHAPE_ONE, .offset = offsetof(S, m),       \
        .stride = sizeof(GW_M_(S, m)), .count = 1, .desc = (d), __VA_ARGS__                        \
    }
#define GW_STRUCT_ARRAY(S, m, d, ...)                                                              \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_STRUCT, .shape = GW_SHAPE_ARRAY, .offset = offsetof(S, m),     \
        .stride = sizeof(GW_M_(S, m)[0]), .count = sizeof(GW_M_(S, m)) / sizeof(GW_M_(S, m)[0]),   \
        .desc = (d), __VA_ARGS__                                                                   \
    }
#define GW_STRUCT_VARRAY(S, m, n, d, ...)                                                          \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_STRUCT, .shape = GW_SHAPE_VARRAY, .offset = offsetof(S, m),    \
        .stride = sizeof(GW_M_(S, m)[0]), .count = sizeof(GW_M_(S, m)) / sizeof(GW_M_(S, m)[0]),   \
        .desc = (d), GW_COUNT_(S, n), __VA_ARGS__                                                  \
    }
#define GW_STRUCT_ALLOC(S, m, n, d, ...)                                                           \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_STRUCT, .shape = GW_SHAPE_ALLOC, .offset = offsetof(S, m),     \
        .stride = sizeof(*GW_M_(S, m)), .desc = (d), GW_COUNT_(S, n), __VA_ARGS__                  \
    }
/* Pointer to one struct. If both the object has one and one comes, the object's stays where it is
 * and its described members are loaded; otherwise it is allocated (zeroed) or freed by load.
 * .is_required refuses NULL. */
#define GW_POINTER(S, m, d, ...)                                                                   \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_STRUCT, .shape = GW_SHAPE_POINTER,                             \
        .stride = sizeof(*GW_M_(S, m)),                                                            \
        .offset = offsetof(S, m) +                                                                 \
                  GW_CHECK_(sizeof(GW_M_(S, m)) == sizeof(void *), "the member is no pointer"),    \
        .count = 1, .desc = (d), __VA_ARGS__                                                       \
    }
/* List: a GPtrArray * of g_malloc'ed structs (NULL is an empty list), in order. Elements are
 * allocated by load; old ones are freed (.free_element where they own more than is described).
 * The GPtrArray itself stays; its own free function is never called by load. Needs .count_max. */
#define GW_LIST(S, m, d, ...)                                                                      \
    {                                                                                              \
        .name = #m, .kind = GW_KIND_STRUCT, .shape = GW_SHAPE_LIST,                                \
        .offset = offsetof(S, m) +                                                                 \
                  GW_CHECK_(__builtin_types_compatible_p(__typeof__(GW_M_(S, m)), GPtrArray *),    \
                            "the member is no GPtrArray *"),                                       \
        .desc = (d), __VA_ARGS__                                                                   \
    }
/* Conversion through a temporary struct described by d (zeroed first). save: to fills the temp
 * from the object. load: check (may be NULL) judges the decoded temp beside the shadow; from, which
 * cannot fail, puts it into the object at commit. For rollback, to followed by from must restore
 * the object's members. */
#define GW_TEMP(temp_name, d, to, check, from, ...)                                                \
    {                                                                                              \
        .name = (temp_name), .kind = GW_KIND_TEMP, .shape = GW_SHAPE_ONE, .count = 1, .desc = (d), \
        .to_temp = (to), .check_temp = (check), .from_temp = (from), __VA_ARGS__                   \
    }
#define GW_FIELDS_END                                                                              \
    {                                                                                              \
        .name = NULL                                                                               \
    }

/* Static self-check of a table: names (charset, length, duplicates), members inside object_size,
 * overlaps (bits included), nested sizes, required bounds, depth. For every device's unit test;
 * registration does it too. */
bool gw_state_desc_check(const struct gw_state_desc *desc, GError **error);

/* ---- Registry ----------------------------------------------------------------------------- */

/* The instances of one machine. Order everywhere: priority (high first), then id (numbers inside
 * ids compare as numbers), never order of creation. */
struct gw_state_registry;

struct gw_state_registry *gw_state_registry_new(void);
void gw_state_registry_free(struct gw_state_registry *registry);
/* id: "hart/0", "virtio-net/0": [a-z0-9] and - _ . / : inside. desc and object are borrowed and
 * outlive the registry (or the entry). */
bool gw_state_registry_add(struct gw_state_registry *registry, const char *id,
                           const struct gw_state_desc *desc, void *object, GError **error);
bool gw_state_registry_remove(struct gw_state_registry *registry, const char *id);
/* The instance id also takes the state of a writer's instance former_id: a renamed device, or a
 * part of a split one (several instances may name the same former_id), or one that was merged
 * (several former ids). */
bool gw_state_registry_add_alias(struct gw_state_registry *registry, const char *id,
                                 const char *former_id, GError **error);
uint32_t gw_state_registry_n(const struct gw_state_registry *registry);
/* The index-th instance in order. Indexes are those of a schema made of this registry, as long as
 * no instance is added or removed. */
const char *gw_state_registry_id(const struct gw_state_registry *registry, uint32_t index);
const struct gw_state_desc *gw_state_registry_desc(const struct gw_state_registry *registry,
                                                   uint32_t index);
void *gw_state_registry_object(const struct gw_state_registry *registry, uint32_t index);

/* What is not device state but must fit too: RAM blocks, machine name, PCI masks, CPU features. */
enum gw_property_rule {
    GW_PROPERTY_EQUAL = 1, /* the reader's values are the writer's, in order */
    GW_PROPERTY_INCLUDE,   /* the reader's values include all of the writer's */
    GW_PROPERTY_FIELD,     /* value of a GW_EQUAL_* field; made by gw_schema_new */
    GW_PROPERTY_WITHIN,    /* three numbers: the own value, and the least and the greatest that are
                              taken: the writer's own value lies in the reader's range */
    GW_PROPERTY_EXPECT,    /* as INCLUDE, but what is missing is a warning */
};
/* values: NULL-terminated, copied. is_optional: a side that lacks the property gets a warning
 * instead of a refusal. */
bool gw_state_registry_add_property(struct gw_state_registry *registry, const char *name,
                                    enum gw_property_rule rule, bool is_optional,
                                    const char *const *values, GError **error);
/* Replaces the values of a property, before somebody makes a schema of the registry: a machine that
 * took over a guest has what that guest has. False: there is no such property, or a limit. */
bool gw_state_registry_set_values(struct gw_state_registry *registry, const char *name,
                                  const char *const *values);
/* One value, printf format. */
bool gw_state_registry_add_property_f(struct gw_state_registry *registry, const char *name,
                                      enum gw_property_rule rule, bool is_optional, GError **error,
                                      const char *format, ...) G_GNUC_PRINTF(6, 7);

/* Saves the index-th instance: runs pre_save, checks constraints and bounds, appends the native
 * encoding to out. On failure out is as before. */
bool gw_state_save(const struct gw_state_registry *registry, uint32_t index, GByteArray *out,
                   GError **error);
/* The same as JSON text (g_free), for people. */
char *gw_state_save_json(const struct gw_state_registry *registry, uint32_t index, GError **error);
/* The machine is about to run: arm() of every instance in order, nested tables included. */
void gw_state_arm(const struct gw_state_registry *registry);

/* ---- Schema ------------------------------------------------------------------------------- */

struct gw_schema_field {
    char *name;
    enum gw_field_kind kind; /* never TEMP */
    enum gw_field_shape shape;
    uint32_t bits;  /* of a scalar's value: 1..64; 0 for structs and bytes */
    uint32_t count; /* ARRAY: elements; others: largest number of elements */
    uint32_t type;  /* STRUCT: index into types, smaller than the own type's; else 0 */
    uint32_t since;
    bool is_droppable;
};

struct gw_schema_type {
    char *name;
    uint32_t version;
    uint32_t n_fields;
    struct gw_schema_field *fields;
    uint32_t n_subsections;
    uint32_t *subsections; /* type indexes, smaller than the own one */
    uint32_t depth;        /* 1: no structs inside */
    uint32_t min_bytes;    /* least encoded size, saturated; at least 1 */
};

struct gw_schema_device {
    char *id;
    uint32_t type;
};

struct gw_schema_property {
    char *name;
    enum gw_property_rule rule;
    bool is_optional;
    char **values; /* NULL-terminated */
};

/* Plain data; arrays are owned by the schema. */
struct gw_schema {
    uint32_t n_types;
    struct gw_schema_type *types;
    uint32_t n_devices;
    struct gw_schema_device *devices; /* in the writer's registry order */
    uint32_t n_properties;
    struct gw_schema_property *properties;
};

/* The schema of a registry. Cannot fail: registration has checked everything. */
struct gw_schema *gw_schema_new(const struct gw_state_registry *registry);
void gw_schema_free(struct gw_schema *schema);
/* Index of a device, or -1. */
int64_t gw_schema_find_device(const struct gw_schema *schema, const char *id);
/* Compact binary form for the wire (docs/device-state.md, "Encodings"). */
GByteArray *gw_schema_encode(const struct gw_schema *schema);
/* PEER: bytes are hostile; every count, name and reference is bounded and checked. */
struct gw_schema *gw_schema_parse(const uint8_t *bytes, size_t len, GError **error);
/* JSON text (g_free), indented. */
char *gw_schema_to_json(const struct gw_schema *schema);
/* One device's section as JSON text (g_free), decoded with nothing but the writer's schema.
 * PEER: bytes are hostile. */
char *gw_schema_section_to_json(const struct gw_schema *schema, uint32_t device,
                                const uint8_t *bytes, size_t len, GError **error);

/* ---- Comparison and plan ------------------------------------------------------------------ */

enum gw_severity {
    GW_SEVERITY_WARNING = 1,
    GW_SEVERITY_REFUSE,
};

struct gw_finding {
    enum gw_severity severity;
    char *device;   /* instance id, or NULL: a property of the machine */
    char *field;    /* path inside the device, property name, or NULL */
    char *sentence; /* complete: device, field, expected, came */
};

/* How the writer's sections are read into the registry's instances. */
struct gw_state_plan;

/* Compares and plans. The registry is borrowed and must not change while the plan lives; the
 * schema is taken over (freed with the plan). Never NULL. */
struct gw_state_plan *gw_state_plan_new(struct gw_schema *writer,
                                        const struct gw_state_registry *reader);
void gw_state_plan_free(struct gw_state_plan *plan);
/* Everything that was found, refusals first. Owned by the plan. */
const struct gw_finding *gw_state_plan_findings(const struct gw_state_plan *plan, uint32_t *n);
/* False if there is a refusal; error then lists all refusals' sentences, joined by "; ". */
bool gw_state_plan_check(const struct gw_state_plan *plan, GError **error);
const struct gw_schema *gw_state_plan_schema(const struct gw_state_plan *plan);

/* ---- Load --------------------------------------------------------------------------------- */

/* One attempt to load a machine: begin, add each section once (any order), check, commit.
 * After a successful check, commit fails only where a post_load does. After commit, rollback puts
 * every object back; keep makes the load final. Freeing a load that was not kept rolls it back. */
struct gw_state_load;

/* NULL with error when the plan has refusals. The plan is borrowed. */
struct gw_state_load *gw_state_load_begin(const struct gw_state_plan *plan, GError **error);
/* Decodes the section of the writer's device (index in the writer's schema) and checks each
 * value's constraint. The bytes are not kept. PEER: hostile bytes. After a failure the load can
 * only be freed. */
bool gw_state_load_add(struct gw_state_load *load, uint32_t device, const uint8_t *bytes,
                       size_t len, GError **error);
/* All sections are there? Then validate() of every instance. Nothing is committed yet. */
bool gw_state_load_check(struct gw_state_load *load, GError **error);
/* Commits all instances in order, then runs post_load of each in order. On failure all objects are
 * as they were. Calls check if it has not been called. */
bool gw_state_load_commit(struct gw_state_load *load, GError **error);
/* Undoes a commit. */
void gw_state_load_rollback(struct gw_state_load *load);
/* Makes a commit final: the old state is freed. */
void gw_state_load_keep(struct gw_state_load *load);
void gw_state_load_free(struct gw_state_load *load);

#ifdef __cplusplus
}
#endif
#endif
