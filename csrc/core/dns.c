/*
** libcurl joins its resolver's thread when a transfer ends early, and a thread
** in getaddrinfo cannot be stopped: one slow name would hold up every fetch, and
** the exit of the process. So names are looked up here, by threads that nothing
** waits for, and libcurl gets the addresses.
*/
#include "dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "future.h"
#include "table.h"
#include "pool.h"

enum {
  MAX_WANTED = 32,   /* lookups at a time that somebody waits for */
  MAX_THREADS = 256, /* with those that everybody has given up, which go on */
  MAX_HOSTS = 4096,   /* in the cache, and as many again as are looked up */
  MAX_ADDRESSES = 16  /* of one host */
};
/* Seconds that answers are kept: long enough for a burst of fetches, short
** enough that a move of a service is noticed. */
static const double KEEP = 30, KEEP_FAILURE = 2;
/* Seconds past those that an answer is served while it is looked up again. */
static const double KEEP_STALE = 60;

/* A name: its answer, and the queries that wait for one. */
typedef struct tr_dns_host {
  tr_node node;
  tr_dns_answer *answer; /* NULL: none yet */
  double expires;
  bool looking_up;
  bool asking;   /* a thread is */
  bool given_up; /* a thread asks, but nobody waits for the answer */
  tr_dns_query *queries;
  struct tr_dns_host *next; /* in the queue of lookups */
  char name[];
} tr_dns_host;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_table hosts;
static size_t room = MAX_HOSTS; /* for so many names, before some are forgotten */
static tr_dns_host *first, **end = &first;

static void *run(void *unused);
static tr_pool pool = {
    .lock = &lock, .name = "theaterref-dns", .run = run, .max = MAX_WANTED};
static int given_up; /* lookups under way that nobody waits for */

/* ------------------------------------------------------------------- answers */

tr_dns_answer *tr_dns_retain(tr_dns_answer *answer) {
  atomic_fetch_add_explicit(&answer->refs, 1, memory_order_relaxed);
  return answer;
}

void tr_dns_release(tr_dns_answer *answer) {
  if (answer != NULL &&
      atomic_fetch_sub_explicit(&answer->refs, 1, memory_order_acq_rel) == 1)
    free(answer);
}

const char *tr_dns_error(const tr_dns_answer *answer) {
  return answer->error == EAI_SYSTEM ? strerror(answer->errnum)
                                     : gai_strerror(answer->error);
}

/* Append an address to a list of them. */
static void add_address(char *list, const struct sockaddr *address) {
  char text[INET6_ADDRSTRLEN];
  bool v6 = address->sa_family == AF_INET6;
  const void *raw =
      v6 ? (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr
         : &((const struct sockaddr_in *)address)->sin_addr;
  if (inet_ntop(address->sa_family, raw, text, sizeof text) == NULL)
    return;
  if (list[0] != '\0')
    strcat(list, ",");
  strcat(list, v6 ? "[" : "");
  strcat(list, text);
  strcat(list, v6 ? "]" : "");
}

/* Ask the system. Blocks for as long as that takes. NULL: memory is short. */
static tr_dns_answer *ask(const char *name) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL, *a;
  tr_dns_answer *answer =
      calloc(1, sizeof *answer + MAX_ADDRESSES * (INET6_ADDRSTRLEN + 3));
  int count = 0;
  if (answer == NULL)
    return NULL;
  atomic_init(&answer->refs, 1);
  answer->error = getaddrinfo(name, NULL, &hints, &found);
  answer->errnum = errno;
  if (answer->error != 0)
    return answer;
  for (a = found; a != NULL && count < MAX_ADDRESSES; a = a->ai_next)
    if (a->ai_family == AF_INET || a->ai_family == AF_INET6) {
      add_address(answer->addresses, a->ai_addr);
      count++;
    }
  freeaddrinfo(found);
  if (count == 0)
    answer->error = EAI_NONAME;
  return answer;
}

/* --------------------------------------------------------------------- hosts */

static tr_dns_host *host_of(tr_node *node) {
  return node == NULL
             ? NULL
             : (tr_dns_host *)((char *)node - offsetof(tr_dns_host, node));
}

static tr_dns_host *find_host(const char *name, uint64_t hash) {
  return hosts.slots == NULL
             ? NULL
             : host_of(tr_table_find(&hosts, hash, name, strlen(name)));
}

static void forget_host(tr_dns_host *host) {
  tr_table_remove(&hosts, &host->node);
  tr_dns_release(host->answer);
  free(host);
}

/* Forget the hosts that nobody waits for, when there are too many. It looks at all
** of them, and so not before as many again have come. */
static void make_room(void) {
  size_t i;
  if (hosts.count < room)
    return;
  for (i = 0; i <= hosts.mask; i++) {
    tr_node *node = hosts.slots[i], *next;
    for (; node != NULL; node = next) {
      next = node->next;
      if (!host_of(node)->looking_up)
        forget_host(host_of(node));
    }
  }
  room = hosts.count > MAX_HOSTS / 2 ? 2 * hosts.count : MAX_HOSTS;
}

/* Return the record of a name, made if there is none; NULL: no memory. */
static tr_dns_host *get_host(const char *name) {
  size_t len = strlen(name);
  uint64_t hash = tr_table_hash(name, len);
  tr_dns_host *host = find_host(name, hash);
  if (host != NULL || (hosts.slots == NULL && !tr_table_init(&hosts)))
    return host;
  make_room();
  host = calloc(1, sizeof *host + len + 1);
  if (host == NULL)
    return NULL;
  memcpy(host->name, name, len);
  host->node = (tr_node){.hash = hash, .key = host->name, .len = len};
  tr_table_add(&hosts, &host->node);
  return host;
}

/* Queries are added in front; whoever asked first is to be first. */
static void reverse_queries(tr_dns_host *host) {
  tr_dns_query *query = host->queries, *next;
  host->queries = NULL;
  for (; query != NULL; query = next) {
    next = query->next;
    query->next = host->queries;
    host->queries = query;
  }
}

/* Give everyone who waits for a host its answer. The lock is held. */
static void deliver(tr_dns_host *host, tr_dns_answer *answer) {
  tr_dns_query *query;
  bool keeps = host->answer != NULL && host->answer->error == 0 &&
               tr_now() - host->expires < KEEP_STALE;
  host->looking_up = false;
  if (answer->error == 0 || !keeps) { /* a failure replaces no good answer */
    tr_dns_release(host->answer);
    host->answer = answer->error != EAI_AGAIN ? tr_dns_retain(answer) : NULL;
    host->expires = tr_now() + (answer->error == 0 ? KEEP : KEEP_FAILURE);
  }
  reverse_queries(host);
  while ((query = host->queries) != NULL) {
    host->queries = query->next;
    query->host = NULL;
    query->done(query, tr_dns_retain(answer));
  }
}

/* ------------------------------------------------------------------- threads */

/* Note that a lookup under way is given up, or that somebody waits for it again. One
** that is given up makes room for another. The lock is held. */
static void set_given_up(tr_dns_host *host, bool is_given_up) {
  given_up += is_given_up - host->given_up;
  host->given_up = is_given_up;
  pool.max = MAX_WANTED + given_up;
  if (pool.max > MAX_THREADS)
    pool.max = MAX_THREADS;
  if (is_given_up && pool.queued > 0)
    tr_pool_call(&pool);
}

static void *run(void *unused) {
  static tr_dns_answer no_memory = {.refs = 1, .error = EAI_MEMORY};
  (void)unused;
  pthread_mutex_lock(&lock);
  while (tr_pool_wait(&pool)) {
    tr_dns_host *host = first;
    tr_dns_answer *answer;
    first = host->next;
    pool.queued--;
    if (first == NULL)
      end = &first;
    if (host->queries == NULL && host->answer == NULL) {
      host->looking_up = false; /* everyone who asked has given up */
      continue;
    }
    host->asking = true;
    set_given_up(host, host->queries == NULL);
    pthread_mutex_unlock(&lock);
    answer = ask(host->name);
    pthread_mutex_lock(&lock);
    host->asking = false;
    set_given_up(host, false);
    deliver(host, answer != NULL ? answer : tr_dns_retain(&no_memory));
    tr_dns_release(answer);
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

/* Queue a lookup. False when there is no thread for it. The lock is held. */
static bool look_up(tr_dns_host *host) {
  if (!tr_pool_call(&pool))
    return false;
  pool.queued++;
  host->looking_up = true;
  host->next = NULL;
  *end = host;
  end = &host->next;
  return true;
}

tr_dns_answer *tr_dns_cached(const char *name) {
  tr_dns_answer *answer = NULL;
  tr_dns_host *host;
  pthread_mutex_lock(&lock);
  host = find_host(name, tr_table_hash(name, strlen(name)));
  if (host != NULL && host->answer != NULL) {
    double age = tr_now() - host->expires;
    if (age < 0 || (age < KEEP_STALE && host->answer->error == 0))
      answer = tr_dns_retain(host->answer);
    if (answer != NULL && age >= 0 && !host->looking_up)
      look_up(host);
  }
  pthread_mutex_unlock(&lock);
  return answer;
}

bool tr_dns_start(tr_dns_query *query, const char *name) {
  tr_dns_host *host;
  bool started;
  pthread_mutex_lock(&lock);
  host = get_host(name);
  started = host != NULL && (host->looking_up || look_up(host));
  if (started) {
    query->host = host;
    query->prev = NULL;
    query->next = host->queries;
    if (query->next != NULL)
      query->next->prev = query;
    host->queries = query;
    set_given_up(host, false);
  }
  pthread_mutex_unlock(&lock);
  return started;
}

void tr_dns_cancel(tr_dns_query *query) {
  pthread_mutex_lock(&lock);
  if (query->host != NULL) {
    *(query->prev != NULL ? &query->prev->next : &query->host->queries) =
        query->next;
    if (query->next != NULL)
      query->next->prev = query->prev;
    if (query->host->asking && query->host->queries == NULL)
      set_given_up(query->host, true);
    query->host = NULL;
  }
  pthread_mutex_unlock(&lock);
}

/* --------------------------------------------------------------------- fork */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* Kept in a child so that leak checkers find the parent's. */
__attribute__((used)) static tr_table inherited;

/* The child has no threads, and so no lookups. */
static void in_child(void) {
  inherited = hosts;
  hosts = (tr_table){0};
  first = NULL;
  end = &first;
  given_up = 0;
  pool.max = MAX_WANTED;
  tr_pool_init(&pool);
  pthread_mutex_unlock(&lock);
}

static void init_once(void) {
  tr_pool_init(&pool);
  pthread_atfork(before_fork, in_parent, in_child);
}

void tr_dns_prepare_fork(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init_once);
}
