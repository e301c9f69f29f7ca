/* Unpacks gzip by zlib, which libcurl brings along; opened when it is needed. */
#include "gzip.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CHUNK = 64 * 1024, GZIP_ONLY = 16 + MAX_WBITS };

struct tr_gzip {
  z_stream stream;
  bool ended, more;
  tr_buffer rest; /* of a piece, while there is more */
};

static struct {
  int (*init)(z_stream *, int, const char *, int);
  int (*inflate)(z_stream *, int);
  int (*reset)(z_stream *);
  int (*end)(z_stream *);
} zlib;

static bool found;

static bool find(void *library, const char *name, void *function) {
  void *address = dlsym(library, name);
  memcpy(function, &address, sizeof address);
  return address != NULL;
}

static void open_once(void) {
  void *library = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
  found = library != NULL && find(library, "inflateInit2_", &zlib.init) &&
          find(library, "inflate", &zlib.inflate) &&
          find(library, "inflateReset", &zlib.reset) &&
          find(library, "inflateEnd", &zlib.end);
}

bool tr_gzip_available(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, open_once);
  return found;
}

tr_gzip *tr_gzip_new(void) {
  tr_gzip *g = tr_gzip_available() ? calloc(1, sizeof *g) : NULL;
  if (g == NULL)
    return NULL;
  if (zlib.init(&g->stream, GZIP_ONLY, ZLIB_VERSION, (int)sizeof g->stream) ==
      Z_OK)
    return g;
  free(g);
  return NULL;
}

void tr_gzip_free(tr_gzip *g) {
  if (g == NULL)
    return;
  zlib.end(&g->stream);
  tr_buffer_free(&g->rest);
  free(g);
}

bool tr_gzip_ended(const tr_gzip *g) { return g->ended; }

bool tr_gzip_has_more(const tr_gzip *g) { return g->more; }

/* Keep what is left of a piece. */
static tr_gzip_status keep_rest(tr_gzip *g) {
  z_stream *s = &g->stream;
  if (!g->more) { /* else it is kept already */
    g->rest.len = 0;
    if (!tr_buffer_append(&g->rest, s->next_in, s->avail_in))
      return TR_GZIP_NOMEM;
    s->next_in = (unsigned char *)g->rest.data;
    g->more = true;
  }
  return TR_GZIP_MORE;
}

static tr_gzip_status unpack(tr_gzip *g, size_t enough, size_t max_bytes,
                             tr_buffer *out) {
  z_stream *s = &g->stream;
  enough += out->len;
  for (;;) {
    size_t room;
    int code;
    if (g->ended) { /* padding may follow, or another member */
      for (; s->avail_in > 0 && *s->next_in == 0; s->avail_in--)
        s->next_in++;
      if (s->avail_in == 0)
        return TR_GZIP_OK;
      if (zlib.reset(s) != Z_OK)
        return TR_GZIP_CORRUPT;
      g->ended = false;
    }
    if (out->cap - out->len < CHUNK && !tr_buffer_reserve(out, CHUNK))
      return TR_GZIP_NOMEM;
    room = out->cap - out->len;
    if (room > enough - out->len)
      room = enough - out->len;
    s->next_out = (unsigned char *)out->data + out->len;
    s->avail_out = (unsigned)room;
    code = zlib.inflate(s, Z_NO_FLUSH);
    out->len += room - s->avail_out;
    if (out->len > max_bytes)
      return TR_GZIP_TOO_LARGE;
    if (code == Z_STREAM_END)
      g->ended = true;
    else if (code == Z_MEM_ERROR)
      return TR_GZIP_NOMEM;
    else if (code != Z_OK && code != Z_BUF_ERROR)
      return TR_GZIP_CORRUPT;
    if (s->avail_in == 0 && s->avail_out > 0)
      return TR_GZIP_OK;
    if (code == Z_BUF_ERROR && s->avail_out > 0)
      return TR_GZIP_OK;
    if (out->len >= enough)
      return keep_rest(g);
  }
}

tr_gzip_status tr_gzip_append(tr_gzip *g, const void *data, size_t size,
                              size_t enough, size_t max_bytes, tr_buffer *out) {
  tr_gzip_status status;
  if (size > 0) {
    g->stream.next_in = (unsigned char *)data;
    g->stream.avail_in = (unsigned)size; /* libcurl's pieces are small */
  }
  status = unpack(g, enough, max_bytes, out);
  g->more = status == TR_GZIP_MORE;
  return status;
}
