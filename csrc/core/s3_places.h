/* Facts that servers reported about S3 buckets and their own clocks; one table per process. */
#ifndef TR_S3_PLACES_H
#define TR_S3_PLACES_H

#include "signer.h"

/* Write the region of a place (tr_signer.place), if a server reported it; false: none did. */
bool tr_place_region(const char *place, char region[TR_REGION_MAX]);
void tr_place_set_region(const char *place, const char *region);

/* How many seconds the clock of an origin is ahead of ours; 0 if unknown. */
double tr_place_skew(const tr_url *url);
void tr_place_set_skew(const tr_url *url, double seconds);

void tr_places_prepare_fork(void);

#endif
