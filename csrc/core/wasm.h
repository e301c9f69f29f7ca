/* Tells WebAssembly from what it is mistaken for. */
#ifndef TR_WASM_H
#define TR_WASM_H

#include <stddef.h>

typedef enum tr_wasm_type {
  TR_WASM_UNKNOWN,
  TR_WASM_MODULE,
  TR_WASM_COMPONENT
} tr_wasm_type;

/* Return the type by the first eight bytes. */
tr_wasm_type tr_wasm_get_type(const void *bytes, size_t size);

/* Room for a description. */
enum { TR_WASM_WHY = 160 };

/* Return the type if the sections fill the bytes exactly. Otherwise return TR_WASM_UNKNOWN,
** and write what it is instead, such as "it is an HTML page". */
tr_wasm_type tr_wasm_inspect(const void *bytes, size_t size, char why[TR_WASM_WHY]);

#endif
