/*
** WebAssembly's frame: a preamble, then sections with their sizes. A download that was cut
** off, or a login page in its place, shows here before a runtime compiles it.
*/
#include "wasm.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { PREAMBLE = 8, LAST_IN_MODULE = 13, LAST_IN_COMPONENT = 12 };

tr_wasm_type tr_wasm_get_type(const void *bytes, size_t size) {
  if (size < PREAMBLE)
    return TR_WASM_UNKNOWN;
  if (memcmp(bytes, "\0asm\x01\0\0\0", PREAMBLE) == 0)
    return TR_WASM_MODULE;
  return memcmp(bytes, "\0asm\x0d\0\x01\0", PREAMBLE) == 0 ? TR_WASM_COMPONENT
                                                          : TR_WASM_UNKNOWN;
}

/* ------------------------------------------------------- what else it may be */

static bool begins(const char *text, size_t size, const char *with, size_t len) {
  return size >= len && memcmp(text, with, len) == 0;
}

static bool begins_word(const char *text, size_t size, const char *with) {
  return size >= strlen(with) && strncasecmp(text, with, strlen(with)) == 0;
}

/* True if the first bytes have no control character but white space. */
static bool is_text(const char *text, size_t size) {
  size_t i;
  for (i = 0; i < size && i < 512; i++)
    if ((unsigned char)text[i] < ' ' && strchr("\t\n\r\f", text[i]) == NULL)
      return false;
  return size == 0 || memchr(text, '\0', i) == NULL;
}

static const char *describe_text(const char *text, size_t size) {
  if (begins_word(text, size, "version https://git-lfs.github.com/"))
    return "a Git LFS pointer, not the file itself (git lfs pull fetches that)";
  while (size > 0 && strchr(" \t\r\n", *text) != NULL && *text != '\0') {
    text++;
    size--;
  }
  if (size == 0)
    return "empty but for white space";
  if (begins_word(text, size, "<!doctype html") || begins_word(text, size, "<html") ||
      begins_word(text, size, "<head"))
    return "an HTML page";
  if (text[0] == '{' || text[0] == '[')
    return "JSON text";
  if (text[0] == '<')
    return "XML text";
  if (begins(text, size, "(module", 7) || begins(text, size, "(component", 10) ||
      begins(text, size, ";;", 2) || begins(text, size, "(;", 2))
    return "WebAssembly in its text format (wat2wasm or wasm-tools parse converts it)";
  return "text";
}

static const char *describe(const char *bytes, size_t size) {
  if (size == 0)
    return "empty";
  if (begins(bytes, size, "\x1f\x8b", 2))
    return "gzip data";
  if (begins(bytes, size, "PK\x03\x04", 4) || begins(bytes, size, "PK\x05\x06", 4))
    return "a zip archive";
  if (begins(bytes, size, "\x28\xb5\x2f\xfd", 4))
    return "Zstandard data";
  if (begins(bytes, size, "\x7f" "ELF", 4))
    return "an ELF program";
  if (size < PREAMBLE && memcmp(bytes, "\0asm\x01\0\0", size) == 0)
    return "WebAssembly that was cut off in its first eight bytes";
  return is_text(bytes, size) ? describe_text(bytes, size) : "binary data of another kind";
}

/* ----------------------------------------------------------------- sections */

/* Read an unsigned LEB128 of 32 bits at '*at'. False: it is cut off, or too long. */
static bool read_size(const unsigned char *bytes, size_t size, size_t *at,
                      uint32_t *value) {
  unsigned shift;
  *value = 0;
  for (shift = 0; shift < 35 && *at < size; shift += 7) {
    unsigned char byte = bytes[(*at)++];
    if (shift == 28 && byte > 0x0F)
      return false;
    *value |= (uint32_t)(byte & 0x7F) << shift;
    if (byte < 0x80)
      return true;
  }
  return false;
}

/* Check that known sections fill the bytes. False with the reason. */
static bool check_sections(const unsigned char *bytes, size_t size, unsigned last,
                           char why[TR_WASM_WHY]) {
  size_t at = PREAMBLE;
  while (at < size) {
    size_t start = at;
    unsigned id = bytes[at++];
    uint32_t claimed;
    if (id > last) {
      snprintf(why, TR_WASM_WHY,
               "it is damaged WebAssembly: at offset %zu is a section of the unknown "
               "number %u",
               start, id);
      return false;
    }
    if (!read_size(bytes, size, &at, &claimed)) {
      snprintf(why, TR_WASM_WHY,
               "it is damaged WebAssembly: section %u at offset %zu has no valid size", id,
               start);
      return false;
    }
    if (claimed > size - at) {
      snprintf(why, TR_WASM_WHY,
               "it is WebAssembly that was cut off: section %u at offset %zu claims %lu "
               "bytes, %zu are left",
               id, start, (unsigned long)claimed, size - at);
      return false;
    }
    at += claimed;
  }
  return true;
}

tr_wasm_type tr_wasm_inspect(const void *bytes, size_t size, char why[TR_WASM_WHY]) {
  tr_wasm_type type = tr_wasm_get_type(bytes, size);
  const unsigned char *at = bytes;
  if (type == TR_WASM_UNKNOWN) {
    if (size >= PREAMBLE && memcmp(bytes, "\0asm", 4) == 0)
      snprintf(why, TR_WASM_WHY,
               "it is WebAssembly of an unknown version (%u, layer %u)",
               at[4] | (unsigned)at[5] << 8, at[6] | (unsigned)at[7] << 8);
    else
      snprintf(why, TR_WASM_WHY, "it is %s", describe(bytes, size));
    return TR_WASM_UNKNOWN;
  }
  return check_sections(bytes, size,
                        type == TR_WASM_MODULE ? LAST_IN_MODULE : LAST_IN_COMPONENT, why)
             ? type
             : TR_WASM_UNKNOWN;
}
