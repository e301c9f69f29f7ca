/* Reading what was signed: JSON, of which nothing may be ambiguous. */
#ifndef TR_SIGNED_JSON_H
#define TR_SIGNED_JSON_H

#include "error.h"
#include "json_members.h"

/*
** Read an object's members, as tr_json_read_members does; 'what' is its name in messages.
** False with the error, of kind TR_UNTRUSTED for a document that counts for nothing.
*/
bool tr_signed_object(const char *what, const tr_json_value *object,
                      tr_json_names names, tr_json_member *members, size_t count,
                      size_t *all, tr_error *error);

/* Return true if a string is there, and means a text. */
bool tr_signed_text(const tr_json_value *value, const char *text);

#endif
