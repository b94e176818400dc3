/* SPDX-License-Identifier: MIT */
/* CPU models over CPUID tables: see cpuid.h. */
#include "cpu/kvm/cpuid.h"

#include <string.h>

#include "godwit/error.h"

enum cpuid_register { EAX, EBX, ECX, EDX };

enum cpuid_class {
    ALWAYS,   /* of every x86-64 processor */
    PLATFORM, /* what KVM itself offers */
    V2,
    V3,
    V4,    /* SPEC: x86-64 psABI, table 3.1, on top of the one before */
    HOST,  /* model "host" only */
    ASKED, /* only by +feature */
    NEVER,
};

struct cpuid_feature {
    const char *name;
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    unsigned bit;
    enum cpuid_class class;
};

static const struct cpuid_feature features[] = {
#define FEATURE(name, leaf, subleaf, reg, bit, class) {name, leaf, subleaf, reg, bit, class},
#include "cpu/kvm/features.def"
#undef FEATURE
};

/* A feature that means nothing without another one. */
static const struct {
    const char *name, *needs;
} dependencies[] = {
    {"avx", "xsave"},
    {"pku", "xsave"},
    {"mpx", "xsave"},
    {"xsaveopt", "xsave"},
    {"xsavec", "xsave"},
    {"xsaves", "xsave"},
    {"xgetbv1", "xsave"},
    {"fma", "avx"},
    {"fma4", "avx"},
    {"xop", "avx"},
    {"f16c", "avx"},
    {"avx2", "avx"},
    {"vaes", "avx"},
    {"vpclmulqdq", "avx"},
    {"avx_vnni", "avx2"},
    {"avx_ifma", "avx2"},
    {"avx512f", "avx2"},
    {"avx512dq", "avx512f"},
    {"avx512ifma", "avx512f"},
    {"avx512pf", "avx512f"},
    {"avx512er", "avx512f"},
    {"avx512cd", "avx512f"},
    {"avx512bw", "avx512f"},
    {"avx512vl", "avx512f"},
    {"avx512vbmi", "avx512f"},
    {"avx512_vbmi2", "avx512f"},
    {"avx512_vnni", "avx512f"},
    {"avx512_bf16", "avx512f"},
    {"avx512_fp16", "avx512f"},
    {"avx512_bitalg", "avx512f"},
    {"avx512_4vnniw", "avx512f"},
    {"avx512_4fmaps", "avx512f"},
    {"avx512_vpopcntdq", "avx512f"},
    {"avx512_vp2intersect", "avx512f"},
};

/* Leaves that are passed on. */
static const struct {
    uint32_t first, last;
} kept_leaves[] = {{0x0, 0x2},
                   {0x4, 0x4},
                   {0x6, 0x7},
                   {0xd, 0xd},
                   {0x40000000, 0x40000001},
                   {0x80000000, 0x80000008},
                   {0x80000019, 0x8000001a},
                   {0x8000001d, 0x8000001e},
                   {0x80000021, 0x80000021}};

enum {
    LEAF_VENDOR = 0x0,
    LEAF_FEATURES = 0x1,
    LEAF_CACHES = 0x4,
    LEAF_POWER = 0x6,
    LEAF_TOPOLOGY = 0xb,
    LEAF_XSAVE = 0xd,
};
#define LEAF_EXTENDED     0x80000000u
#define LEAF_AMD_SIZES    0x80000008u
#define LEAF_AMD_CACHES   0x8000001du
#define LEAF_AMD_TOPOLOGY 0x8000001eu
#define POWER_ARAT        (1u << 2) /* the APIC's timer never stops */
#define XSAVE_LEGACY      576u

/* ---- tables ---------------------------------------------------------------------------------- */

static struct kvm_cpuid_entry2 *find_entry(const struct cpuid_table *table, uint32_t leaf,
                                           uint32_t subleaf)
{
    for (uint32_t i = 0; i < table->n; i++) {
        const struct kvm_cpuid_entry2 *entry = &table->entries[i];
        bool has_index = entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        if (entry->function == leaf && (!has_index || entry->index == subleaf))
            return (struct kvm_cpuid_entry2 *)entry;
    }
    return NULL;
}

static uint32_t *entry_register(struct kvm_cpuid_entry2 *entry, enum cpuid_register reg)
{
    switch (reg) {
    case EAX:
        return &entry->eax;
    case EBX:
        return &entry->ebx;
    case ECX:
        return &entry->ecx;
    case EDX:
        return &entry->edx;
    }
    g_assert_not_reached();
}

static bool has(const struct cpuid_table *table, const struct cpuid_feature *feature)
{
    struct kvm_cpuid_entry2 *entry = find_entry(table, feature->leaf, feature->subleaf);
    return entry && (*entry_register(entry, feature->reg) >> feature->bit & 1);
}

static void put(struct cpuid_table *table, const struct cpuid_feature *feature, bool is_on)
{
    struct kvm_cpuid_entry2 *entry = find_entry(table, feature->leaf, feature->subleaf);

    if (!entry)
        return;
    uint32_t *word = entry_register(entry, feature->reg);
    *word = (*word & ~(1u << feature->bit)) | (uint32_t)is_on << feature->bit;
}

static const struct cpuid_feature *find_feature(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(features); i++)
        if (strcmp(features[i].name, name) == 0)
            return &features[i];
    return NULL;
}

bool cpuid_has(const struct cpuid_table *table, const char *name)
{
    const struct cpuid_feature *feature = find_feature(name);
    return feature && has(table, feature);
}

void cpuid_complete(struct cpuid_table *host, bool has_deadline_timer)
{
    put(host, find_feature("hypervisor"), true);
    if (has_deadline_timer)
        put(host, find_feature("tsc_deadline_timer"), true);
}

char **cpuid_features(const struct cpuid_table *table)
{
    GPtrArray *names = g_ptr_array_new();

    for (size_t i = 0; i < G_N_ELEMENTS(features); i++)
        if (has(table, &features[i]))
            g_ptr_array_add(names, g_strdup(features[i].name));
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

static void append(struct cpuid_table *table, const struct kvm_cpuid_entry2 *entry)
{
    if (table->n < CPUID_MAX_ENTRIES)
        table->entries[table->n++] = *entry;
}

/* ---- models ---------------------------------------------------------------------------------- */

static bool is_kept(const struct kvm_cpuid_entry2 *entry)
{
    if (!entry->eax && !entry->ebx && !entry->ecx && !entry->edx)
        return false; /* as if it was not there */
    for (size_t i = 0; i < G_N_ELEMENTS(kept_leaves); i++)
        if (entry->function >= kept_leaves[i].first && entry->function <= kept_leaves[i].last)
            return true;
    return false;
}

/* Bits of the register that have a name. */
static uint32_t named_bits(uint32_t leaf, uint32_t subleaf, enum cpuid_register reg)
{
    uint32_t bits = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(features); i++)
        if (features[i].leaf == leaf && features[i].subleaf == subleaf && features[i].reg == reg)
            bits |= 1u << features[i].bit;
    return bits;
}

static void keep_known(const struct cpuid_table *host, struct cpuid_table *guest)
{
    guest->n = 0;
    guest->padding = 0;
    for (uint32_t i = 0; i < host->n; i++) {
        struct kvm_cpuid_entry2 entry = host->entries[i];
        if (!is_kept(&entry))
            continue;
        for (enum cpuid_register reg = EAX; reg <= EDX; reg++) {
            uint32_t bits = named_bits(entry.function, entry.index, reg);
            if (bits)
                *entry_register(&entry, reg) &= bits;
        }
        if (entry.function == LEAF_POWER)
            entry =
                (struct kvm_cpuid_entry2){.function = LEAF_POWER, .eax = entry.eax & POWER_ARAT};
        append(guest, &entry);
    }
}

static bool class_of_model(const char *model, enum cpuid_class *class, GError **error)
{
    static const struct {
        const char *name;
        enum cpuid_class class;
    } models[] = {{"host", HOST}, {"x86-64-v2", V2}, {"x86-64-v3", V3}, {"x86-64-v4", V4}};

    for (size_t i = 0; i < G_N_ELEMENTS(models); i++) {
        if (strcmp(models[i].name, model) == 0) {
            *class = models[i].class;
            return true;
        }
    }
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "CPU model \"%s\" is not known: expected %s",
                model, CPUID_MODELS);
    return false;
}

/* Masks the table to a model. */
static bool apply_model(struct cpuid_table *guest, const char *model, GError **error)
{
    g_autoptr(GString) missing = g_string_new(NULL);
    enum cpuid_class class;

    if (!class_of_model(model, &class, error))
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        const struct cpuid_feature *feature = &features[i];
        bool is_level = feature->class >= V2 && feature->class <= MIN(class, V4);
        if (class != HOST && is_level && !has(guest, feature))
            g_string_append_printf(missing, "%s%s", missing->len ? ", " : "", feature->name);
        if (feature->class > class)
            put(guest, feature, false);
    }
    if (missing->len == 0)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "CPU model %s: this host lacks %s", model,
                missing->str);
    return false;
}

static bool apply_change(const struct cpuid_table *host, struct cpuid_table *guest,
                         const char *word, GError **error)
{
    bool is_on = word[0] == '+';
    const struct cpuid_feature *feature = is_on || word[0] == '-' ? find_feature(word + 1) : NULL;

    if (!feature) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "CPU feature \"%s\" is not known", word);
        return false;
    }
    if (is_on && feature->class == NEVER) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "CPU feature %s cannot be given to a guest: it does not travel", word + 1);
        return false;
    }
    if (is_on && !has(host, feature)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "CPU feature %s: this host lacks it",
                    word + 1);
        return false;
    }
    put(guest, feature, is_on);
    return true;
}

static void drop_dependents(struct cpuid_table *guest)
{
    bool is_changed;

    do {
        is_changed = false;
        for (size_t i = 0; i < G_N_ELEMENTS(dependencies); i++) {
            if (cpuid_has(guest, dependencies[i].name) &&
                !cpuid_has(guest, dependencies[i].needs)) {
                put(guest, find_feature(dependencies[i].name), false);
                is_changed = true;
            }
        }
    } while (is_changed);
}

/* ---- vector state ---------------------------------------------------------------------------- */

/* SPEC: Intel SDM 1, 13.1: components of the XSAVE area by their features. */
static uint32_t xsave_components(const struct cpuid_table *table)
{
    static const struct {
        const char *name;
        uint32_t components;
    } rows[] = {
        {"xsave", 3u}, {"avx", 1u << 2}, {"mpx", 3u << 3}, {"avx512f", 7u << 5}, {"pku", 1u << 9}};
    uint32_t components = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        if (cpuid_has(table, rows[i].name))
            components |= rows[i].components;
    return components;
}

uint32_t cpuid_xsave_bytes(const struct cpuid_table *table)
{
    uint32_t components = xsave_components(table);
    uint32_t n_bytes = XSAVE_LEGACY;

    for (uint32_t i = 2; i < 32; i++) {
        const struct kvm_cpuid_entry2 *entry = find_entry(table, LEAF_XSAVE, i);
        if ((components >> i & 1) && entry)
            n_bytes = MAX(n_bytes, entry->eax + entry->ebx);
    }
    return n_bytes;
}

static void fit_xsave(struct cpuid_table *guest)
{
    uint32_t components = xsave_components(guest);
    uint32_t n_bytes = cpuid_xsave_bytes(guest);
    uint32_t n = 0;

    for (uint32_t i = 0; i < guest->n; i++) {
        struct kvm_cpuid_entry2 entry = guest->entries[i];
        if (entry.function == LEAF_XSAVE) {
            if (!components || (entry.index > 1 && !(components >> MIN(entry.index, 31u) & 1)))
                continue;
            if (entry.index == 0) {
                entry.eax = components;
                entry.ecx = n_bytes;
                entry.edx = 0;
            } else if (entry.index == 1) {
                entry.ecx = entry.edx = 0; /* no supervisor state */
            }
        }
        guest->entries[n++] = entry;
    }
    guest->n = n;
}

static void fit_ranges(struct cpuid_table *guest)
{
    uint32_t basic = LEAF_TOPOLOGY, extended = LEAF_EXTENDED;

    for (uint32_t i = 0; i < guest->n; i++) {
        uint32_t leaf = guest->entries[i].function;
        if (leaf < 0x40000000)
            basic = MAX(basic, leaf);
        else if (leaf >= LEAF_EXTENDED)
            extended = MAX(extended, leaf);
    }
    struct kvm_cpuid_entry2 *entry = find_entry(guest, LEAF_VENDOR, 0);
    if (entry)
        entry->eax = basic;
    entry = find_entry(guest, LEAF_EXTENDED, 0);
    if (entry)
        entry->eax = extended;
}

bool cpuid_build(const struct cpuid_table *host, const char *model, struct cpuid_table *guest,
                 GError **error)
{
    g_auto(GStrv) words = g_strsplit(model && *model ? model : "host", ",", -1);
    bool has_model = words[0][0] != '+' && words[0][0] != '-';

    keep_known(host, guest);
    if (!apply_model(guest, has_model ? words[0] : "host", error))
        return false;
    for (char **word = words + has_model; *word; word++)
        if (!apply_change(host, guest, *word, error))
            return false;
    drop_dependents(guest);
    fit_xsave(guest);
    fit_ranges(guest);
    return true;
}

/* ---- topology -------------------------------------------------------------------------------- */

static unsigned bits_for(unsigned n)
{
    return n > 1 ? 32 - (unsigned)__builtin_clz(n - 1) : 0;
}

static void add_topology(struct cpuid_table *own, unsigned id, unsigned n_vcpus)
{
    enum { LEVEL_THREAD = 1 << 8, LEVEL_CORE = 2 << 8 };
    const struct kvm_cpuid_entry2 levels[] = {
        {.ebx = 1, .ecx = LEVEL_THREAD},
        {.eax = bits_for(n_vcpus), .ebx = n_vcpus, .ecx = LEVEL_CORE},
        {.ebx = 0},
    };

    for (uint32_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        struct kvm_cpuid_entry2 entry = levels[i];
        entry.function = LEAF_TOPOLOGY;
        entry.index = i;
        entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        entry.ecx |= i;
        entry.edx = id;
        append(own, &entry);
    }
}

/* Caches of levels 1 and 2 belong to one core, those above to all. */
static uint32_t cache_sharing(uint32_t eax, unsigned n_vcpus)
{
    unsigned level = eax >> 5 & 7;
    uint32_t sharing = level > 2 ? n_vcpus - 1 : 0;
    return (eax & ~(0xfffu << 14)) | sharing << 14;
}

static void personalise(struct kvm_cpuid_entry2 *entry, unsigned id, unsigned n_vcpus)
{
    switch (entry->function) {
    case LEAF_FEATURES:
        entry->ebx = (entry->ebx & 0xffff) | n_vcpus << 16 | id << 24;
        if (n_vcpus > 1)
            entry->edx |= 1u << 28; /* ht: the count is valid */
        else
            entry->edx &= ~(1u << 28);
        break;
    case LEAF_CACHES:
        entry->eax = cache_sharing(entry->eax, n_vcpus);
        entry->eax = (entry->eax & ~(0x3fu << 26)) | (n_vcpus - 1) << 26;
        break;
    case LEAF_AMD_SIZES:
        entry->ecx = bits_for(n_vcpus) << 12 | (n_vcpus - 1);
        break;
    case LEAF_AMD_CACHES:
        entry->eax = cache_sharing(entry->eax, n_vcpus);
        break;
    case LEAF_AMD_TOPOLOGY:
        entry->eax = id;
        entry->ebx = id;
        entry->ecx = 0;
        entry->edx = 0;
        break;
    }
}

void cpuid_personalise(const struct cpuid_table *guest, unsigned id, unsigned n_vcpus,
                       struct cpuid_table *own)
{
    *own = *guest;
    for (uint32_t i = 0; i < own->n; i++)
        personalise(&own->entries[i], id, n_vcpus);
    add_topology(own, id, n_vcpus);
}

/* ---- comparison ------------------------------------------------------------------------------ */

bool cpuid_check(const struct cpuid_table *host, const struct cpuid_table *guest, GError **error)
{
    g_autoptr(GString) missing = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(features); i++)
        if (has(guest, &features[i]) && (!has(host, &features[i]) || features[i].class == NEVER))
            g_string_append_printf(missing, "%s%s", missing->len ? ", " : "", features[i].name);
    if (missing->len == 0)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_REFUSED, "this host lacks %s, which the guest was given",
                missing->str);
    return false;
}
