/* The folder of a disk cache, and the lock of those who write there. */
#ifndef TR_DISK_FOLDER_H
#define TR_DISK_FOLDER_H

#include "disk_cache.h"

struct tr_disk {
  uint64_t max_bytes;
  int folder; /* open, or -1 */
  char path[];
};

/* True if the open folder is still the one at the path. */
bool tr_disk_is_current(const tr_disk *disk);

/* Check that nobody else can put files into the open folder. False with the error. */
bool tr_disk_is_private(const tr_disk *disk, tr_error *error);

/* Open the folder, or see that it is open. -1 with the error. */
int tr_disk_open_folder(tr_disk *disk, bool make, tr_error *error);

/* Call 'visit' with every file but the lock whose name begins with 'prefix'. False
** with errno. */
typedef void (*tr_disk_visitor)(void *context, int dir, const char *name,
                                const struct stat *st);
bool tr_disk_walk(int dir, const char *prefix, tr_disk_visitor visit,
                  void *context);

/* The bytes that a file counts for. */
uint64_t tr_disk_blocks(off_t size);

/* Remove a file, or a folder that is empty. True if there is none now. */
bool tr_disk_discard(int dir, const char *name);

/* Note that a file is stored and used now. */
void tr_disk_stamp(int dir, const char *name);

/* The holder of the lock. */
typedef struct tr_disk_holder {
  tr_disk *disk;
  int dir, lock;
  uint64_t total;  /* bytes of all files */
  tr_buffer items; /* the entries, if they have been counted */
  bool counted;
  bool wrong; /* the sum is not known any more: the next holder counts */
} tr_disk_holder;

/* Take the lock, within so many seconds, and the sum. False with the error. */
bool tr_disk_hold(tr_disk *disk, double seconds, tr_disk_holder *h,
                  tr_error *error);
void tr_disk_let_go(tr_disk_holder *h);

/* Count all files again. False with the error. */
bool tr_disk_count(tr_disk_holder *h, tr_error *error);

/* See that 'need' bytes fit, by evicting what was not used for longest. False with
** the error. */
bool tr_disk_make_room(tr_disk_holder *h, uint64_t need, tr_error *error);

#endif
