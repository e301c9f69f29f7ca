/* Queues by origin, served by turns, and a binary heap of moments. */
#include "queue.h"

#include <stdlib.h>
#include <string.h>

/* Seconds that requests wait for the first connection to their origin. */
static const double HOLD = 0.3;

static tr_table origins;
static tr_origin *ring;   /* the next to be served */
static tr_request **heap; /* from 1 on */
static size_t heap_count, heap_room;

/* -------------------------------------------------------------------- origins */

static tr_origin *origin_of(tr_node *node) {
  return node == NULL ? NULL
                      : (tr_origin *)((char *)node - offsetof(tr_origin, node));
}

bool tr_queue_join(tr_request *r) {
  const char *name = r->url.text;
  size_t len = r->url.origin_len;
  uint64_t hash = tr_table_hash(name, len);
  tr_origin *o;
  if (origins.slots == NULL && !tr_table_init(&origins))
    return false;
  o = origin_of(tr_table_find(&origins, hash, name, len));
  if (o == NULL) {
    o = calloc(1, sizeof *o + len);
    if (o == NULL)
      return false;
    memcpy(o->name, name, len);
    o->node = (tr_node){.hash = hash, .key = o->name, .len = len};
    tr_table_add(&origins, &o->node);
  }
  o->requests++;
  r->origin = o;
  return true;
}

void tr_queue_leave(tr_request *r) {
  tr_origin *o = r->origin;
  if (o == NULL)
    return;
  tr_queue_remove(r);
  r->origin = NULL;
  if (--o->requests > 0)
    return;
  tr_table_remove(&origins, &o->node);
  free(o);
}

/* Append an origin to the ring: just before the next to be served. */
static void enter_ring(tr_origin *o) {
  o->queued = true;
  if (ring == NULL) {
    ring = o->prev = o->next = o;
    return;
  }
  o->next = ring;
  o->prev = ring->prev;
  o->prev->next = o->next->prev = o;
}

static void leave_ring(tr_origin *o) {
  o->queued = false;
  if (o->next == o) {
    ring = NULL;
    return;
  }
  if (ring == o)
    ring = o->next;
  o->prev->next = o->next;
  o->next->prev = o->prev;
}

/* --------------------------------------------------------------------- queues */

void tr_queue_push(tr_request *r, bool in_front) {
  tr_origin *o = r->origin;
  r->state = TR_REQUEST_QUEUED;
  r->prev = in_front ? NULL : o->last;
  r->next = in_front ? o->first : NULL;
  *(r->prev != NULL ? &r->prev->next : &o->first) = r;
  *(r->next != NULL ? &r->next->prev : &o->last) = r;
  if (!o->queued)
    enter_ring(o);
}

void tr_queue_remove(tr_request *r) {
  tr_origin *o = r->origin;
  if (r->state != TR_REQUEST_QUEUED)
    return;
  *(r->prev != NULL ? &r->prev->next : &o->first) = r->next;
  *(r->next != NULL ? &r->next->prev : &o->last) = r->prev;
  r->prev = r->next = NULL;
  r->state = TR_REQUEST_NEW;
  if (o->first == NULL)
    leave_ring(o);
}

/* True if requests to an origin wait for its first connection. */
static bool is_held(const tr_origin *o, double now) {
  return o->running > 0 && !o->connected && now < o->hold_until;
}

tr_request *tr_queue_pop(size_t per_origin, bool is_full, double *wake_at) {
  tr_origin *o = ring, *stop = ring;
  double now = o != NULL ? tr_now() : 0;
  while (o != NULL) {
    if (o->running >= per_origin || (is_full && o->running > 0)) {
      /* one that runs makes room */
    } else if (is_held(o, now)) {
      if (o->hold_until < *wake_at)
        *wake_at = o->hold_until;
    } else {
      tr_request *r = o->first;
      ring = o->next;
      tr_queue_remove(r);
      return r;
    }
    o = o->next;
    if (o == stop)
      break;
  }
  return NULL;
}

void tr_queue_start(tr_request *r) {
  tr_origin *o = r->origin;
  r->state = TR_REQUEST_RUNNING;
  if (o->running++ == 0 && !o->connected && r->url.secure)
    o->hold_until = tr_now() + HOLD;
}

void tr_queue_connected(tr_request *r) {
  if (r->connected)
    r->origin->connected = true;
}

void tr_queue_stop(tr_request *r) {
  tr_origin *o = r->origin;
  o->running--;
  if (r->connected)
    o->connected = true;
  else if (!o->connected)
    o->hold_until = 0; /* it did not work out: everybody tries */
}

/* ----------------------------------------------------------------------- heap */

static void place(tr_request *r, size_t i) {
  heap[i] = r;
  r->heap_index = i;
}

static void sift_up(tr_request *r, size_t i) {
  while (i > 1 && heap[i / 2]->wake_at > r->wake_at) {
    place(heap[i / 2], i);
    i /= 2;
  }
  place(r, i);
}

static void sift_down(tr_request *r, size_t i) {
  for (;;) {
    size_t child = 2 * i;
    if (child > heap_count)
      break;
    if (child < heap_count && heap[child + 1]->wake_at < heap[child]->wake_at)
      child++;
    if (heap[child]->wake_at >= r->wake_at)
      break;
    place(heap[child], i);
    i = child;
  }
  place(r, i);
}

bool tr_heap_set(tr_request *r, double moment) {
  double before = r->wake_at;
  r->wake_at = moment;
  if (r->heap_index > 0) {
    if (moment < before)
      sift_up(r, r->heap_index);
    else
      sift_down(r, r->heap_index);
    return true;
  }
  if (heap_count + 1 >= heap_room) {
    size_t room = heap_room > 0 ? 2 * heap_room : 256;
    tr_request **larger = realloc(heap, room * sizeof(tr_request *));
    if (larger == NULL)
      return false;
    heap = larger;
    heap_room = room;
  }
  sift_up(r, ++heap_count);
  return true;
}

void tr_heap_remove(tr_request *r) {
  size_t i = r->heap_index;
  tr_request *last;
  if (i == 0)
    return;
  r->heap_index = 0;
  last = heap[heap_count--];
  if (last == r)
    return;
  if (i > 1 && heap[i / 2]->wake_at > last->wake_at)
    sift_up(last, i);
  else
    sift_down(last, i);
}

tr_request *tr_heap_first(void) { return heap_count > 0 ? heap[1] : NULL; }

/* Kept in a child so that leak checkers find the parent's. */
__attribute__((used)) static struct {
  tr_table origins;
  tr_request **heap;
} inherited;

void tr_queue_forget(void) {
  inherited.origins = origins;
  inherited.heap = heap;
  origins = (tr_table){0};
  ring = NULL;
  heap = NULL;
  heap_count = heap_room = 0;
}
