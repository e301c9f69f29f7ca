/* Strict base64, DER and PEM: one encoding for one content. */
#ifndef TR_ENCODING_H
#define TR_ENCODING_H

#include "blob.h"

/*
** Append the bytes that base64 text means (RFC 4648, section 4). White space, missing
** padding, and set bits that encode nothing are errors. False: the text is invalid, or
** memory is short, which is in '*no_memory'.
*/
bool tr_base64_decode(const char *text, size_t size, tr_buffer *out,
                      bool *no_memory);

/* Decode text that means exactly 'size' bytes. */
bool tr_base64_decode_exactly(const char *text, size_t len, unsigned char *bytes,
                              size_t size);

/* A part of a text. */
typedef struct tr_line {
  const char *at;
  size_t len;
} tr_line;

/* Take a line off the front of a text, without its ending, which is LF, CR LF, or the end
** of the text. */
tr_line tr_take_line(const char **at, const char *end);

/* A part of a DER encoding. */
typedef struct tr_der {
  const unsigned char *at;
  size_t size;
} tr_der;

enum {
  TR_DER_INTEGER = 0x02,
  TR_DER_BIT_STRING = 0x03,
  TR_DER_NULL = 0x05,
  TR_DER_OID = 0x06,
  TR_DER_SEQUENCE = 0x30
};

/* Take an item of one type off the front of 'from'. False: there is none, or its length
** is not written in the shortest way. */
bool tr_der_take(tr_der *from, unsigned char type, tr_der *content);

/* Take a positive integer in its shortest form; 'content' is without a leading zero
** byte. Zero is an error. */
bool tr_der_take_positive(tr_der *from, tr_der *content);

/* A block of a PEM text. */
typedef struct tr_pem {
  const char *label; /* between BEGIN and the dashes */
  size_t label_len;
  const char *body; /* the lines between BEGIN and END */
  size_t body_len;
} tr_pem;

/* Find the next block of the text from '*at' to 'end', and move '*at' past it. False
** if there is none. A block without its END has 'body' NULL, and is the last. */
bool tr_pem_next(const char **at, const char *end, tr_pem *block);

/* Return true if the block's label is, or ends in, a text. */
bool tr_pem_is(const tr_pem *block, const char *label);
bool tr_pem_ends_in(const tr_pem *block, const char *ending);

#endif
