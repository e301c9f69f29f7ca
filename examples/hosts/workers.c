/*
** Many workers in one process, a thread and a host each, over one cache: each
** plans the same spawn again and again, and the package is loaded once.
**
**   cc workers.c $(pkg-config --cflags --libs theaterref) -pthread -o workers
**   ./workers manifest.toml [workers]
*/
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <theaterref.h>

enum { MOST_WORKERS = 64, PLANS = 50 };

static void *work(void *manifest) {
  tr_host_options options = TR_HOST_OPTIONS;
  tr_error error;
  tr_host *host;
  size_t planned = 0;
  options.cache = "packages";
  host = tr_host_new(&options, &error);
  while (host != NULL && planned < PLANS) {
    tr_plan *plan = tr_host_plan(host, manifest, NULL, &error);
    if (plan == NULL)
      break;
    tr_plan_free(plan);
    planned++;
  }
  if (planned < PLANS)
    fprintf(stderr, "workers: %s\n", error.message);
  tr_host_free(host);
  return planned == PLANS ? manifest : NULL;
}

int main(int argc, char **argv) {
  tr_cache_options options = TR_CACHE_OPTIONS;
  uint64_t stats[TR_STAT_COUNT];
  tr_error error;
  tr_cache *cache;
  pthread_t threads[MOST_WORKERS];
  int i, workers = argc > 2 ? atoi(argv[2]) : 4, failed = 0;
  void *result;
  if (argc < 2 || workers < 1 || workers > MOST_WORKERS) {
    fprintf(stderr, "usage: workers MANIFEST [1 to %d]\n", MOST_WORKERS);
    return 2;
  }
  cache = tr_cache_open("packages", &options, &error); /* for its counters */
  if (cache == NULL) {
    fprintf(stderr, "workers: %s\n", error.message);
    return 1;
  }
  for (i = 0; i < workers; i++)
    if (pthread_create(&threads[i], NULL, work, argv[1]) != 0)
      return 1;
  for (i = 0; i < workers; i++) {
    pthread_join(threads[i], &result);
    failed += result == NULL;
  }
  tr_cache_get_stats(cache, stats, TR_STAT_COUNT);
  printf("%d plans by %d workers: %llu loads, %llu hits, %llu waits\n",
         workers * PLANS, workers, (unsigned long long)stats[TR_STAT_LOADS],
         (unsigned long long)stats[TR_STAT_HITS], (unsigned long long)stats[TR_STAT_COALESCED]);
  tr_cache_release(cache);
  return failed == 0 ? 0 : 1;
}
