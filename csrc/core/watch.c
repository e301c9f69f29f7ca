/*
** Watches, by one inotify instance for the process: a user may have 128 of them. A thread
** reads its events while anything is watched.
**
** A point is a name in a folder. Points belong to their watch, and are listed by folder:
** an event of a folder reaches the points with its name. The lock guards everything; nothing
** blocks while it is held. Adding a folder on a file server may take long, so the thread adds it
** without the lock, and again if inotify dropped any folder in the meantime.
*/
#include "watch.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "thread.h"

enum {
  MAX_POINTS = 64, /* of a watch; paths that are longer are watched in part */
  MAX_LINKS = 40,
  MAX_TRIES = 8, /* to add a folder while others go */
  BUCKETS = 256,
  EVENTS = IN_ATTRIB | IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO |
           IN_ONLYDIR
};

typedef struct point {
  int folder; /* inotify's number for it */
  struct point *prev, *next; /* of the same bucket */
  tr_watch *watch;
  char name[NAME_MAX + 1];
} point;

struct tr_watch {
  tr_notifier *notifier; /* or NULL */
  atomic_bool changed;
  size_t count;
  point *points[MAX_POINTS];
  tr_watch *prev, *next; /* all of the process */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static tr_watch *watches;
static point *buckets[BUCKETS]; /* by folder */
static size_t points;           /* in all buckets */
static int instance = -1;       /* of inotify */
static bool has_thread;         /* which closes it in the end */
static size_t adding;           /* threads that add a folder to it */
static unsigned removals;       /* how often a folder went */

static point **bucket_of(int folder) { return &buckets[(unsigned)folder % BUCKETS]; }

/* ------------------------------------------------------------------- points */

/* True if any point is in a folder. The lock is held, as below. */
static bool is_used(int folder) {
  const point *p;
  for (p = *bucket_of(folder); p != NULL; p = p->next)
    if (p->folder == folder)
      return true;
  return false;
}

static void unlist(point *p) {
  *(p->prev != NULL ? &p->prev->next : bucket_of(p->folder)) = p->next;
  if (p->next != NULL)
    p->next->prev = p->prev;
  points--;
}

/* Free a point; the last one in a folder ends the watch there. Its event wakes the
** thread, which ends once there is no point. */
static void remove_point(point *p) {
  unlist(p);
  if (instance >= 0 && !is_used(p->folder)) {
    inotify_rm_watch(instance, p->folder);
    removals++;
  }
  free(p);
}

static void list(point *p) {
  point **first = bucket_of(p->folder);
  p->next = *first;
  if (p->next != NULL)
    p->next->prev = p;
  *first = p;
  points++;
}

static void signal_watch(tr_watch *w) {
  atomic_store(&w->changed, true);
  if (w->notifier != NULL)
    tr_notifier_signal(w->notifier);
}

/* ------------------------------------------------------------------- events */

/* Tell the watches of an event. Without a name it is about the folder itself. */
static void handle(const struct inotify_event *e) {
  point *p;
  tr_watch *w;
  if ((e->mask & IN_Q_OVERFLOW) != 0)
    for (w = watches; w != NULL; w = w->next)
      signal_watch(w);
  for (p = *bucket_of(e->wd); p != NULL; p = p->next)
    if (p->folder == e->wd && (e->len == 0 || strcmp(p->name, e->name) == 0))
      signal_watch(p->watch);
}

/* A folder that is gone, or whose number inotify took back, has no points. */
static void forget_folder(int folder) {
  tr_watch *w;
  size_t i;
  for (w = watches; w != NULL; w = w->next)
    for (i = w->count; i > 0; i--)
      if (w->points[i - 1]->folder == folder) {
        unlist(w->points[i - 1]);
        free(w->points[i - 1]);
        w->points[i - 1] = w->points[--w->count];
      }
}

static void handle_all(const char *at, const char *end) {
  while (at < end) {
    const struct inotify_event *e = (const void *)at;
    handle(e);
    if ((e->mask & IN_IGNORED) != 0) {
      forget_folder(e->wd);
      removals++;
    }
    at += sizeof *e + e->len;
  }
}

static void close_instance(void) {
  close(instance);
  instance = -1;
  has_thread = false;
}

/* Read events until nothing is watched any more. */
static void *run(void *context) {
  _Alignas(struct inotify_event) char events[16 * 1024];
  int fd;
  bool ends = false;
  (void)context;
  pthread_mutex_lock(&lock);
  fd = instance; /* nobody else closes it now */
  pthread_mutex_unlock(&lock);
  while (!ends) {
    ssize_t size = read(fd, events, sizeof events);
    pthread_mutex_lock(&lock);
    if (size > 0)
      handle_all(events, events + size);
    ends = points + adding == 0 || (size < 0 && errno != EINTR);
    if (ends)
      close_instance();
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

/* Open the instance if it is not open, and keep it open: 'adding' counts the caller. */
static bool enter(void) {
  if (instance < 0)
    instance = inotify_init1(IN_CLOEXEC);
  adding += instance >= 0;
  return instance >= 0;
}

/* End what 'enter' began: the thread runs if there is a point, and ends if not. */
static void leave(void) {
  adding--;
  if (points > 0 && !has_thread)
    has_thread = tr_thread_start("theaterref-file", run);
  if (points + adding > 0)
    return;
  if (!has_thread)
    close_instance();
  else /* wake it: the end of a watch is an event */
    inotify_rm_watch(instance, inotify_add_watch(instance, "/", EVENTS));
}

/* --------------------------------------------------------------------- fork */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }

/* The instance belongs to the parent. The child's watches look again and start over. */
static void in_child(void) {
  tr_watch *w;
  size_t i;
  if (instance >= 0)
    close_instance();
  adding = 0;
  for (i = 0; i < BUCKETS; i++) /* a thread that is gone may have had some in hand */
    while (buckets[i] != NULL) {
      point *p = buckets[i];
      unlist(p);
      free(p);
    }
  for (w = watches; w != NULL; w = w->next) {
    w->count = 0;
    signal_watch(w);
  }
  pthread_mutex_unlock(&lock);
}

static void at_fork(void) {
  tr_notifier_prepare_fork();
  pthread_atfork(before_fork, in_parent, in_child);
}

/* ------------------------------------------------------------------ watches */

tr_watch *tr_watch_new(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  tr_watch *w = calloc(1, sizeof *w);
  if (w == NULL)
    return NULL;
  pthread_once(&once, at_fork);
  pthread_mutex_lock(&lock);
  w->next = watches;
  if (watches != NULL)
    watches->prev = w;
  watches = w;
  pthread_mutex_unlock(&lock);
  return w;
}

void tr_watch_notify(tr_watch *w, tr_notifier *notifier) {
  tr_notifier *before;
  tr_notifier_retain(notifier);
  pthread_mutex_lock(&lock);
  before = w->notifier;
  w->notifier = notifier;
  pthread_mutex_unlock(&lock);
  tr_notifier_release(before);
}

void tr_watch_free(tr_watch *w) {
  if (w == NULL)
    return;
  pthread_mutex_lock(&lock);
  while (w->count > 0)
    remove_point(w->points[--w->count]);
  *(w->prev != NULL ? &w->prev->next : &watches) = w->next;
  if (w->next != NULL)
    w->next->prev = w->prev;
  pthread_mutex_unlock(&lock);
  tr_notifier_release(w->notifier);
  free(w);
}

bool tr_watch_take(tr_watch *w) { return atomic_exchange(&w->changed, false); }

/* The points that a call of tr_watch_set asks for. */
typedef struct wanted {
  tr_watch *watch;
  point *old[MAX_POINTS]; /* those of before that are not asked for, or not yet */
  size_t old_count;
  bool is_new;
} wanted;

/* Keep an earlier point. False: there is no such point. */
static bool keep_point(wanted *want, int folder, const char *name) {
  size_t i;
  for (i = 0; i < want->old_count; i++) {
    point *p = want->old[i];
    if (p->folder != folder || strcmp(p->name, name) != 0)
      continue;
    want->old[i] = want->old[--want->old_count];
    want->watch->points[want->watch->count++] = p;
    return true;
  }
  return false;
}

/* Add a folder to the instance, without the lock, which is held before and after. Return
** its number, or -1. */
static int add_folder(const char *folder) {
  int number = -1, fd = instance, tries;
  unsigned before;
  for (tries = 0; tries < MAX_TRIES; tries++) {
    before = removals;
    pthread_mutex_unlock(&lock);
    number = inotify_add_watch(fd, folder, EVENTS);
    pthread_mutex_lock(&lock);
    if (number < 0 || removals == before)
      return number;
  }
  return number;
}

/* Watch a name in a folder, if that can be watched. */
static void add_point(wanted *want, const char *folder, const char *name) {
  tr_watch *w = want->watch;
  point *p = calloc(1, sizeof *p);
  if (p == NULL)
    return;
  pthread_mutex_lock(&lock);
  if (w->count < MAX_POINTS && enter()) {
    p->folder = add_folder(folder);
    if (p->folder >= 0 && !keep_point(want, p->folder, name)) {
      p->watch = w;
      strcpy(p->name, name);
      list(p);
      w->points[w->count++] = p;
      want->is_new = true;
      p = NULL;
    }
    leave();
  }
  pthread_mutex_unlock(&lock);
  free(p);
}

/* A path that is being followed through folders and links. */
typedef struct walk {
  char folder[PATH_MAX]; /* without links */
  char rest[PATH_MAX];
  char name[NAME_MAX + 1];
  int links;
} walk;

/* Move the next name from the rest. False at the end, or if it is too long. */
static bool next_name(walk *way) {
  const char *start = way->rest + strspn(way->rest, "/");
  size_t len = strcspn(start, "/");
  if (len == 0 || len > NAME_MAX)
    return false;
  memcpy(way->name, start, len);
  way->name[len] = '\0';
  memmove(way->rest, start + len, strlen(start + len) + 1);
  return true;
}

static void go_up(walk *way) {
  char *slash = strrchr(way->folder, '/');
  slash[slash == way->folder ? 1 : 0] = '\0';
}

/* Append the name to the folder. False: the path is too long. */
static bool go_down(walk *way) {
  size_t len = strlen(way->folder), more = strlen(way->name);
  if (len + 1 + more >= sizeof way->folder)
    return false;
  if (len > 1)
    way->folder[len++] = '/';
  memcpy(way->folder + len, way->name, more + 1);
  return true;
}

/* Follow a link. The folder ends with its name. False: it cannot be followed. */
static bool follow_link(walk *way) {
  char target[PATH_MAX];
  size_t rest = strlen(way->rest);
  ssize_t len = readlink(way->folder, target, sizeof target);
  if (len <= 0 || (size_t)len + rest >= sizeof way->rest || way->links++ >= MAX_LINKS)
    return false;
  go_up(way);
  memmove(way->rest + len, way->rest, rest + 1);
  memcpy(way->rest, target, (size_t)len);
  if (target[0] == '/')
    strcpy(way->folder, "/");
  return true;
}

/* Watch each name that a path passes through. */
static void add_path(wanted *want, const char *path) {
  walk way = {.folder = "/"};
  struct stat st;
  bool goes_on = strlen(path) < sizeof way.rest;
  if (!goes_on || (path[0] != '/' && getcwd(way.folder, sizeof way.folder) == NULL))
    return;
  strcpy(way.rest, path);
  while (goes_on && next_name(&way)) {
    if (strcmp(way.name, ".") == 0)
      continue;
    if (strcmp(way.name, "..") == 0) {
      go_up(&way);
      continue;
    }
    add_point(want, way.folder, way.name);
    goes_on = go_down(&way) && lstat(way.folder, &st) == 0 &&
              (!S_ISLNK(st.st_mode) || follow_link(&way));
  }
}

bool tr_watch_set(tr_watch *w, const char *const *paths, size_t count) {
  wanted want = {.watch = w};
  size_t i;
  pthread_mutex_lock(&lock);
  want.old_count = w->count;
  memcpy(want.old, w->points, w->count * sizeof *w->points);
  w->count = 0;
  pthread_mutex_unlock(&lock);
  for (i = 0; i < count; i++)
    add_path(&want, paths[i]);
  pthread_mutex_lock(&lock);
  while (want.old_count > 0)
    remove_point(want.old[--want.old_count]);
  pthread_mutex_unlock(&lock);
  return want.is_new;
}
