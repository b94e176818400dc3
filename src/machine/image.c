/* SPDX-License-Identifier: MIT */
/* Boot files: ELF64, Linux Image and raw, with every number checked before use. */
#include "machine/image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "godwit/error.h"

/* SPEC: docs.kernel.org arch/riscv/boot-image-header, version 0.2. */
struct linux_header {
    uint32_t code0, code1;
    uint64_t text_offset;
    uint64_t image_size;
    uint64_t flags; /* bit 0: big endian */
    uint32_t version;
    uint32_t res1;
    uint64_t res2;
    uint64_t magic;  /* "RISCV\0\0\0", deprecated but still written */
    uint32_t magic2; /* "RSC\x05" */
    uint32_t res3;
};

#define LINUX_MAGIC2        0x05435352u
#define LINUX_FLAG_BIG      1u
#define LINUX_ALIGNMENT     (UINT64_C(2) << 20)
#define IMAGE_MAX_ELF_PHDRS 128

static bool parse_linux(struct image *image, const uint8_t *bytes, uint64_t n_bytes, GError **error)
{
    struct linux_header header;
    memcpy(&header, bytes, sizeof header);

    if (header.flags & LINUX_FLAG_BIG) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "Linux Image is big-endian");
        return false;
    }
    if (header.text_offset % LINUX_ALIGNMENT != 0 || header.text_offset > IMAGE_MAX_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "Linux Image wants text offset 0x%" G_GINT64_MODIFIER
                    "x, which is not a multiple of 2 MiB below 4 GiB",
                    header.text_offset);
        return false;
    }
    if (header.image_size > IMAGE_MAX_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT,
                    "Linux Image claims a size of %" G_GUINT64_FORMAT
                    " bytes, at most %" G_GUINT64_FORMAT " are accepted",
                    header.image_size, IMAGE_MAX_BYTES);
        return false;
    }
    image->kind = IMAGE_LINUX;
    image->text_offset = header.text_offset;
    image->memory_bytes = MAX(header.image_size, n_bytes);
    image->n_segments = 1;
    image->segments[0] = (struct image_segment){
        .bytes = bytes, .n_bytes = n_bytes, .memory_bytes = image->memory_bytes};
    return true;
}

static bool add_elf_segment(struct image *image, const uint8_t *bytes, uint64_t n_bytes,
                            unsigned index, const Elf64_Phdr *phdr, GError **error)
{
    if (phdr->p_filesz > phdr->p_memsz || phdr->p_offset > n_bytes ||
        phdr->p_filesz > n_bytes - phdr->p_offset || phdr->p_memsz > IMAGE_MAX_BYTES ||
        phdr->p_paddr > UINT64_MAX - phdr->p_memsz) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "ELF program header %u does not fit the file: offset 0x%" G_GINT64_MODIFIER
                    "x, file size 0x%" G_GINT64_MODIFIER "x, memory size 0x%" G_GINT64_MODIFIER
                    "x, file has %" G_GUINT64_FORMAT " bytes",
                    index, phdr->p_offset, phdr->p_filesz, phdr->p_memsz, n_bytes);
        return false;
    }
    if (phdr->p_memsz == 0)
        return true;
    if (image->n_segments == IMAGE_MAX_SEGMENTS) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT, "ELF file has more than %d loadable segments",
                    IMAGE_MAX_SEGMENTS);
        return false;
    }
    image->segments[image->n_segments++] = (struct image_segment){
        .gpa = phdr->p_paddr,
        .bytes = bytes + phdr->p_offset,
        .n_bytes = phdr->p_filesz,
        .memory_bytes = phdr->p_memsz,
    };
    return true;
}

static const char *machine_title(uint16_t elf_machine)
{
    return elf_machine == EM_RISCV ? "RISC-V" : "x86-64";
}

static bool parse_elf(struct image *image, uint16_t elf_machine, const uint8_t *bytes,
                      uint64_t n_bytes, GError **error)
{
    Elf64_Ehdr ehdr;

    if (n_bytes < sizeof ehdr) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "ELF file is cut inside its header");
        return false;
    }
    memcpy(&ehdr, bytes, sizeof ehdr);
    if (ehdr.e_ident[EI_CLASS] != ELFCLASS64 || ehdr.e_ident[EI_DATA] != ELFDATA2LSB ||
        ehdr.e_machine != elf_machine) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "ELF file is not for 64-bit little-endian %s (machine %u)",
                    machine_title(elf_machine), ehdr.e_machine);
        return false;
    }
    if (ehdr.e_phentsize != sizeof(Elf64_Phdr) || ehdr.e_phnum > IMAGE_MAX_ELF_PHDRS ||
        ehdr.e_phoff > n_bytes ||
        (uint64_t)ehdr.e_phnum * sizeof(Elf64_Phdr) > n_bytes - ehdr.e_phoff) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "ELF program header table (%u entries of %u bytes at 0x%" G_GINT64_MODIFIER
                    "x) does not fit the file",
                    ehdr.e_phnum, ehdr.e_phentsize, ehdr.e_phoff);
        return false;
    }
    image->kind = IMAGE_ELF;
    image->entry = ehdr.e_entry;
    for (unsigned i = 0; i < ehdr.e_phnum; i++) {
        Elf64_Phdr phdr;
        memcpy(&phdr, bytes + ehdr.e_phoff + i * sizeof phdr, sizeof phdr);
        if (phdr.p_type != PT_LOAD)
            continue;
        if (!add_elf_segment(image, bytes, n_bytes, i, &phdr, error))
            return false;
        /* The entry is a virtual address; segments are placed at their physical address. */
        if (ehdr.e_entry >= phdr.p_vaddr && ehdr.e_entry - phdr.p_vaddr < phdr.p_memsz)
            image->entry = phdr.p_paddr + (ehdr.e_entry - phdr.p_vaddr);
    }
    if (image->n_segments == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "ELF file has nothing to load");
        return false;
    }
    return true;
}

bool image_parse(struct image *image, uint16_t elf_machine, const uint8_t *bytes, uint64_t n_bytes,
                 GError **error)
{
    uint32_t magic2 = 0;

    image->n_segments = 0;
    image->entry = 0;
    if (n_bytes == 0 || n_bytes > IMAGE_MAX_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "file has %" G_GUINT64_FORMAT " bytes, 1 to %" G_GUINT64_FORMAT " are accepted",
                    n_bytes, IMAGE_MAX_BYTES);
        return false;
    }
    if (n_bytes >= SELFMAG && memcmp(bytes, ELFMAG, SELFMAG) == 0)
        return parse_elf(image, elf_machine, bytes, n_bytes, error);
    if (n_bytes >= sizeof(struct linux_header))
        memcpy(&magic2, bytes + G_STRUCT_OFFSET(struct linux_header, magic2), sizeof magic2);
    if (magic2 == LINUX_MAGIC2)
        return parse_linux(image, bytes, n_bytes, error);

    image->kind = IMAGE_RAW;
    image->memory_bytes = n_bytes;
    image->n_segments = 1;
    image->segments[0] =
        (struct image_segment){.bytes = bytes, .n_bytes = n_bytes, .memory_bytes = n_bytes};
    return true;
}

GMappedFile *image_map(const char *path, const char *what, GError **error)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s \"%s\": %s", what, path,
                    g_strerror(errno));
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%s \"%s\": not a regular file", what, path);
        return NULL;
    }
    GMappedFile *file = g_mapped_file_new(path, FALSE, error);
    if (!file)
        g_prefix_error(error, "%s \"%s\": ", what, path);
    return file;
}

struct image *image_open(const char *path, uint16_t elf_machine, const char *what, GError **error)
{
    g_autoptr(image_t) image = g_new0(struct image, 1);
    image->file = image_map(path, what, error);
    if (!image->file)
        return NULL;
    if (!image_parse(image, elf_machine, (const uint8_t *)g_mapped_file_get_contents(image->file),
                     g_mapped_file_get_length(image->file), error)) {
        g_prefix_error(error, "%s \"%s\": ", what, path);
        return NULL;
    }
    return g_steal_pointer(&image);
}

void image_free(struct image *image)
{
    if (!image)
        return;
    if (image->file)
        g_mapped_file_unref(image->file);
    g_free(image);
}
