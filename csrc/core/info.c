/* Facts about fetches, for those who ask; and the library's version. */
#include "future.h"

const char *tr_version(void) { return TR_VERSION; }

const char *tr_info_url(const tr_info *info) { return info->url; }

int tr_info_status(const tr_info *info) { return info->status; }

const char *tr_info_content_type(const tr_info *info) {
  return info->content_type;
}

const char *tr_info_digest(const tr_info *info) { return info->digest; }

bool tr_info_unchanged(const tr_info *info) { return info->unchanged; }

int tr_info_attempts(const tr_info *info) { return info->attempts; }

uint64_t tr_info_received(const tr_info *info) { return info->received; }

double tr_info_seconds(const tr_info *info, tr_moment moment) {
  switch (moment) {
  case TR_MOMENT_STARTED:
    return info->queued;
  case TR_MOMENT_CONNECTED:
    return info->connected;
  case TR_MOMENT_FIRST_BYTE:
    return info->first_byte;
  case TR_MOMENT_DONE:
    return info->total;
  }
  return -1;
}
