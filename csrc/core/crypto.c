/* SHA-1 and SHA-256 over mbedTLS's message digest layer, which reads the
** same in its 2.x and 3.x versions. */
#include "crypto.h"

#include <mbedtls/md.h>
#include <stdlib.h>
#include <string.h>

size_t tr_hex_length(tr_algorithm algorithm) {
  return algorithm == TR_SHA1 ? 40 : 64;
}

void tr_digest(tr_algorithm algorithm, const void *data, size_t size,
               char hex[TR_HEX_MAX]) {
  static const char digits[] = "0123456789abcdef";
  unsigned char raw[MBEDTLS_MD_MAX_SIZE];
  size_t i, len = tr_hex_length(algorithm) / 2;
  const mbedtls_md_info_t *info = mbedtls_md_info_from_type(
      algorithm == TR_SHA1 ? MBEDTLS_MD_SHA1 : MBEDTLS_MD_SHA256);
  /* Only a build of mbedTLS without these two digests can fail here, and a
  ** wrong name for content would be worse than stopping. */
  if (info == NULL || mbedtls_md(info, data, size, raw) != 0)
    abort();
  for (i = 0; i < len; i++) {
    hex[2 * i] = digits[raw[i] >> 4];
    hex[2 * i + 1] = digits[raw[i] & 15];
  }
  hex[2 * len] = '\0';
}

tr_algorithm tr_algorithm_of(const char *hex) {
  return strlen(hex) == tr_hex_length(TR_SHA1) ? TR_SHA1 : TR_SHA256;
}

bool tr_hex_valid(const char *hex) {
  size_t len = strspn(hex, "0123456789abcdefABCDEF");
  return hex[len] == '\0' && (len == 40 || len == 64);
}
