/*
** The documents come from a registry, or from whoever pushed to it. They are read in one
** pass, and nothing is kept but the candidates for the choice and the first kilobyte of a
** list of them, however long the document is.
*/
#include "oci_select.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "error.h"
#include "json.h"
#include "oci_reference.h"

enum { TEXT_MAX = 1024, LIST_MAX = 600 };

/* Nothing is larger, and a double has all integers below. */
static const uint64_t SIZE_LIMIT = (uint64_t)1 << 53;

/* -------------------------------------------------------------- media types */

static const struct known_type {
  const char *name;
  bool is_index;
} known_types[] = {
    {"application/vnd.oci.image.index.v1+json", true},
    {"application/vnd.docker.distribution.manifest.list.v2+json", true},
    {"application/vnd.oci.image.manifest.v1+json", false},
    {"application/vnd.docker.distribution.manifest.v2+json", false},
};

static const char *const wasm_types[] = {
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
};

/* The known type that a text names, without its parameters; NULL if none. */
static const struct known_type *find_type(const char *text) {
  size_t len = strcspn(text, "; \t"), i;
  for (i = 0; i < sizeof known_types / sizeof *known_types; i++)
    if (strlen(known_types[i].name) == len &&
        strncasecmp(known_types[i].name, text, len) == 0)
      return &known_types[i];
  return NULL;
}

static bool is_wasm_type(const char *text) {
  size_t i;
  for (i = 0; i < sizeof wasm_types / sizeof *wasm_types; i++)
    if (strcmp(wasm_types[i], text) == 0)
      return true;
  return false;
}

/* --------------------------------------------------------------- reading */

/* A text of the document. One that is too long is cut, and fits nothing. */
typedef struct text {
  char data[TEXT_MAX];
  bool is_set, cut;
} text;

/* A descriptor: what a document says of another one, or of a layer. */
typedef struct descriptor {
  text media_type, digest, title, architecture;
  uint64_t size;
  bool has_size;
} descriptor;

typedef struct reader {
  tr_json json;
  const char *title; /* that is wanted, or NULL */
  text media_type;   /* the document's own */
  bool has_manifests, has_layers;
  int version; /* schemaVersion; 0: none */
  size_t count, wasm_count, title_count;
  bool titles_differ; /* with the wanted title there are layers of several digests */
  descriptor only, wasm, titled, next;
  char list[LIST_MAX]; /* of what there is, for messages */
  size_t list_len;
  const char *fault; /* static */
  bool no_memory;
} reader;

static bool fail(reader *r, const char *fault) {
  if (r->fault == NULL)
    r->fault = fault;
  return false;
}

/* The next token; false at an error. */
static bool next(reader *r, tr_json_token *token) {
  *token = tr_json_next(&r->json);
  return token->type != TR_JSON_ERROR || fail(r, r->json.complaint);
}

/* Skip the value that 'token' begins. */
static bool skip(reader *r, tr_json_token token) {
  unsigned depth = 0;
  for (;;) {
    if (token.type == TR_JSON_OPEN_OBJECT || token.type == TR_JSON_OPEN_ARRAY)
      depth++;
    else if (token.type == TR_JSON_CLOSE_OBJECT ||
             token.type == TR_JSON_CLOSE_ARRAY)
      depth--;
    if (depth == 0)
      return true;
    if (!next(r, &token))
      return false;
  }
}

/* Copy what a string or key means into 't'. */
static bool read_text(reader *r, tr_json_token token, text *t) {
  tr_buffer decoded = {0};
  const char *from = token.text + 1;
  size_t len = token.len - 2;
  if (token.escaped) {
    if (!tr_json_decode(token, &decoded)) {
      tr_buffer_free(&decoded);
      r->no_memory = true;
      return false;
    }
    from = decoded.data;
    len = decoded.len;
  }
  t->is_set = true;
  t->cut = len >= TEXT_MAX || (len > 0 && memchr(from, '\0', len) != NULL);
  if (len >= TEXT_MAX)
    len = TEXT_MAX - 1;
  if (len > 0)
    memcpy(t->data, from, len);
  t->data[len] = '\0';
  tr_buffer_free(&decoded);
  return true;
}

/* The value of a field that must be a string, and there once. */
static bool read_string(reader *r, text *t) {
  tr_json_token token;
  if (t->is_set)
    return fail(r, "a field is there twice");
  if (!next(r, &token))
    return false;
  return token.type == TR_JSON_STRING ? read_text(r, token, t)
                                      : fail(r, "a field that is a text is something else");
}

static bool read_size(reader *r, descriptor *d) {
  tr_json_token token;
  uint64_t size = 0;
  size_t i;
  if (d->has_size)
    return fail(r, "a field is there twice");
  if (!next(r, &token))
    return false;
  if (token.type != TR_JSON_NUMBER)
    return fail(r, "a size is no number");
  for (i = 0; i < token.len; i++) {
    if (token.text[i] < '0' || token.text[i] > '9' || size >= SIZE_LIMIT / 10)
      return fail(r, "a size is no whole number below 2^53 / 10");
    size = size * 10 + (uint64_t)(token.text[i] - '0');
  }
  d->size = size;
  d->has_size = true;
  return true;
}

static bool is_key(const text *key, const char *name) {
  return !key->cut && strcmp(key->data, name) == 0;
}

/* A function that reads the value of a key. */
typedef bool (*read_field)(reader *r, const text *key);

/* Read the object whose '{' is the last token. */
static bool read_object(reader *r, read_field field) {
  tr_json_token token;
  text key;
  for (;;) {
    if (!next(r, &token))
      return false;
    if (token.type == TR_JSON_CLOSE_OBJECT)
      return true;
    if (!read_text(r, token, &key) || !field(r, &key))
      return false;
  }
}

/* Read the object that comes next; null and others are skipped. */
static bool read_inner(reader *r, read_field field) {
  tr_json_token token;
  if (!next(r, &token))
    return false;
  return token.type == TR_JSON_OPEN_OBJECT ? read_object(r, field)
                                           : skip(r, token);
}

static bool skip_next(reader *r) {
  tr_json_token token;
  return next(r, &token) && skip(r, token);
}

static bool platform_field(reader *r, const text *key) {
  return is_key(key, "architecture") ? read_string(r, &r->next.architecture)
                                     : skip_next(r);
}

static bool annotation_field(reader *r, const text *key) {
  return is_key(key, "org.opencontainers.image.title")
             ? read_string(r, &r->next.title)
             : skip_next(r);
}

static bool descriptor_field(reader *r, const text *key) {
  if (is_key(key, "mediaType"))
    return read_string(r, &r->next.media_type);
  if (is_key(key, "digest"))
    return read_string(r, &r->next.digest);
  if (is_key(key, "size"))
    return read_size(r, &r->next);
  if (is_key(key, "platform"))
    return read_inner(r, platform_field);
  if (is_key(key, "annotations"))
    return read_inner(r, annotation_field);
  return skip_next(r); /* "urls" and "data", too: bytes come from the registry */
}

/* ------------------------------------------------------------- candidates */

static void add_to_list(reader *r, const char *text) {
  size_t len = strlen(text);
  if (r->list_len + len >= LIST_MAX)
    len = LIST_MAX - 1 - r->list_len;
  memcpy(r->list + r->list_len, text, len);
  r->list_len += len;
  r->list[r->list_len] = '\0';
}

/* Add a descriptor to the list for messages. */
static void list_next(reader *r) {
  const descriptor *d = &r->next;
  if (r->list_len > LIST_MAX - 128) {
    if (r->list_len < LIST_MAX - 8 && r->list[r->list_len - 1] != '.')
      add_to_list(r, ", ...");
    return;
  }
  if (r->list_len > 0)
    add_to_list(r, ", ");
  if (d->title.is_set) {
    add_to_list(r, "'");
    add_to_list(r, d->title.data);
    add_to_list(r, "' ");
  } else if (d->architecture.is_set) {
    add_to_list(r, d->architecture.data);
    add_to_list(r, " ");
  }
  add_to_list(r, "(");
  add_to_list(r, d->media_type.is_set ? d->media_type.data : "no media type");
  add_to_list(r, ")");
}

static void consider(reader *r, bool of_index) {
  const descriptor *d = &r->next;
  if (r->count++ == 0)
    r->only = *d;
  if (of_index ? is_key(&d->architecture, "wasm")
               : !d->media_type.cut && is_wasm_type(d->media_type.data))
    if (r->wasm_count++ == 0)
      r->wasm = *d;
  if (!of_index && r->title != NULL && d->title.is_set &&
      is_key(&d->title, r->title)) {
    if (r->title_count++ == 0)
      r->titled = *d;
    else if (strcmp(r->titled.digest.data, d->digest.data) != 0)
      r->titles_differ = true;
  }
  list_next(r);
}

/* Read the array of descriptors that comes next. */
static bool read_descriptors(reader *r, bool of_index, bool *seen) {
  tr_json_token token;
  if (*seen)
    return fail(r, "a field is there twice");
  if (!next(r, &token))
    return false;
  if (token.type == TR_JSON_NULL)
    return true;
  *seen = true;
  if (token.type != TR_JSON_OPEN_ARRAY)
    return fail(r, "its 'manifests' or 'layers' are no list");
  for (;;) {
    if (!next(r, &token))
      return false;
    if (token.type == TR_JSON_CLOSE_ARRAY)
      return true;
    if (token.type != TR_JSON_OPEN_OBJECT)
      return fail(r, "a descriptor is no object");
    memset(&r->next, 0, sizeof r->next);
    if (!read_object(r, descriptor_field))
      return false;
    consider(r, of_index);
  }
}

static bool read_version(reader *r) {
  tr_json_token token;
  if (!next(r, &token))
    return false;
  r->version = token.type == TR_JSON_NUMBER && token.len == 1
                   ? token.text[0] - '0'
                   : -1;
  return skip(r, token);
}

static bool document_field(reader *r, const text *key) {
  if (is_key(key, "mediaType"))
    return read_string(r, &r->media_type);
  if (is_key(key, "manifests"))
    return read_descriptors(r, true, &r->has_manifests);
  if (is_key(key, "layers"))
    return read_descriptors(r, false, &r->has_layers);
  if (is_key(key, "schemaVersion"))
    return read_version(r);
  return skip_next(r);
}

static bool read_document(reader *r) {
  tr_json_token token;
  if (!next(r, &token))
    return false;
  if (token.type != TR_JSON_OPEN_OBJECT)
    return fail(r, "it is no object");
  return read_object(r, document_field) && next(r, &token);
}

/* --------------------------------------------------------------- choosing */

/* The contradiction in a document, or NULL: static. */
static const char *contradiction(const reader *r, const char *given) {
  const struct known_type *own =
      r->media_type.is_set ? find_type(r->media_type.data) : NULL;
  const struct known_type *called = given != NULL ? find_type(given) : NULL;
  const struct known_type *type = own != NULL ? own : called;
  if (r->has_manifests && r->has_layers)
    return "it has both 'manifests' and 'layers'";
  if (own != NULL && called != NULL && own != called)
    return "its media type is another than its registry says";
  if (type != NULL && (type->is_index ? r->has_layers : r->has_manifests))
    return "its media type contradicts what it has";
  return NULL;
}

static bool take(const descriptor *d, tr_oci_kind kind, tr_oci_choice *choice,
                 tr_error *error) {
  if (d->digest.cut ||
      !tr_oci_is_digest(d->digest.data, strlen(d->digest.data))) {
    tr_error_set(error, TR_SYNTAX, "the document is malformed: a digest in it is not "
                                   "sha256: and 64 lower-case hex digits");
    return false;
  }
  if (!d->has_size) {
    tr_error_set(error, TR_SYNTAX,
                 "the document is malformed: a descriptor in it has no size");
    return false;
  }
  memset(choice, 0, sizeof *choice);
  choice->kind = kind;
  memcpy(choice->digest, d->digest.data + 7, TR_OCI_DIGEST_HEX);
  choice->size = d->size;
  if (!d->media_type.cut && strlen(d->media_type.data) < TR_OCI_TYPE_MAX)
    strcpy(choice->media_type, d->media_type.data);
  return true;
}

static bool choose_entry(const reader *r, tr_oci_choice *choice,
                         tr_error *error) {
  if (r->wasm_count == 1)
    return take(&r->wasm, TR_OCI_MANIFEST, choice, error);
  if (r->wasm_count == 0 && r->count == 1)
    return take(&r->only, TR_OCI_MANIFEST, choice, error);
  if (r->count == 0)
    tr_error_set(error, TR_NOT_FOUND, "the index is empty");
  else if (r->wasm_count == 0)
    tr_error_set(error, TR_NOT_FOUND, "the index has no entry for wasm: %s",
                 r->list);
  else
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "the index has %zu entries for wasm; choose one by its digest: "
                 "%s",
                 r->wasm_count, r->list);
  return false;
}

static bool choose_layer(const reader *r, tr_oci_choice *choice,
                         tr_error *error) {
  if (r->title != NULL && r->title_count > 0 && !r->titles_differ)
    return take(&r->titled, TR_OCI_LAYER, choice, error);
  if (r->title == NULL && r->wasm_count == 1)
    return take(&r->wasm, TR_OCI_LAYER, choice, error);
  if (r->title == NULL && r->wasm_count == 0 && r->count == 1)
    return take(&r->only, TR_OCI_LAYER, choice, error);
  if (r->count == 0)
    tr_error_set(error, TR_NOT_FOUND, "the manifest has no layers");
  else if (r->titles_differ)
    tr_error_set(error, TR_SYNTAX,
                 "the manifest has several layers with the title '%s'", r->title);
  else if (r->title != NULL)
    tr_error_set(error, TR_NOT_FOUND,
                 "the manifest has no layer with the title '%s', but %s",
                 r->title, r->list);
  else
    tr_error_set(error, TR_INVALID_REFERENCE,
                 "the manifest has %zu %s; choose one by its title, as in "
                 "#title=name: %s",
                 r->wasm_count > 0 ? r->wasm_count : r->count,
                 r->wasm_count > 0 ? "layers of WebAssembly"
                                   : "layers, none of WebAssembly",
                 r->list);
  return false;
}

static bool choose(reader *r, const char *media_type, tr_oci_choice *choice,
                   tr_error *error) {
  const char *fault = NULL;
  bool ok = read_document(r);
  if (r->no_memory) {
    tr_error_nomem(error);
    return false;
  }
  if (ok)
    fault = contradiction(r, media_type);
  if (ok && fault == NULL && !r->has_manifests && !r->has_layers)
    fault = r->version == 1 ? "it is of Docker's schema 1, which is not supported"
                            : "it has neither 'manifests' nor 'layers'";
  if (!ok || fault != NULL) {
    tr_error_set(error, TR_SYNTAX, "the document is malformed: %s",
                 fault != NULL ? fault : r->fault);
    return false;
  }
  return r->has_manifests ? choose_entry(r, choice, error)
                          : choose_layer(r, choice, error);
}

bool tr_oci_select(const char *document, size_t len, const char *title,
                   const char *media_type, tr_oci_choice *choice,
                   tr_error *error) {
  reader *r = calloc(1, sizeof *r); /* too large for a thread's stack */
  bool ok;
  error = tr_error_or_ignored(error);
  if (r == NULL) {
    tr_error_nomem(error);
    return false;
  }
  r->title = title;
  tr_json_start(&r->json, document, len);
  ok = choose(r, media_type, choice, error);
  free(r);
  return ok;
}
