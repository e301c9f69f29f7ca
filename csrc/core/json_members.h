/* Reads chosen members of JSON objects, strictly. */
#ifndef TR_JSON_MEMBERS_H
#define TR_JSON_MEMBERS_H

#include "json.h"

/* A value in a JSON text: the text itself of an object or array. */
typedef struct tr_json_value {
  tr_json_token token; /* its type is TR_JSON_ERROR if there is none */
} tr_json_value;

/* A member to read, and its value once it was found. */
typedef struct tr_json_member {
  const char *name;
  tr_json_type type; /* TR_JSON_STRING, TR_JSON_OPEN_OBJECT or TR_JSON_OPEN_ARRAY;
                        TR_JSON_ERROR: any */
  tr_json_value value;
} tr_json_member;

/* How names of members are compared. */
typedef enum tr_json_names {
  TR_NAMES_EXACT,
  TR_NAMES_PROTOBUF /* "media_type" is "mediaType", as all readers of protobuf have it */
} tr_json_names;

/* The result of reading. */
typedef enum tr_json_result {
  TR_JSON_READ,
  TR_JSON_INVALID,   /* not an object, or no valid JSON */
  TR_JSON_DUPLICATE, /* a member that was asked for is there twice */
  TR_JSON_WRONG_TYPE,
  TR_JSON_NO_MEMORY
} tr_json_result;

/*
** Read the members of an object that are in a list of 'count'; the others are skipped.
** '*all', which may be NULL, gets the number of all members. If the result is
** TR_JSON_DUPLICATE or TR_JSON_WRONG_TYPE, '*fault' gets the member's name.
*/
tr_json_result tr_json_read_members(const char *text, size_t size, tr_json_names names,
                                    tr_json_member *members, size_t count, size_t *all,
                                    const char **fault);

/* Read up to 'max' items of an array, and the number of all items. False: no valid JSON. */
bool tr_json_read_items(const tr_json_value *array, tr_json_value *items, size_t max,
                        size_t *count);

/* Return true if the value is there. */
bool tr_json_has(const tr_json_value *value);

/* Append the meaning of a string. False when memory is short. */
bool tr_json_value_decode(const tr_json_value *string, tr_buffer *out);

#endif
