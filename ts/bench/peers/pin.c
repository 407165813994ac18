/*
 * Keeps the threads of llama.cpp on cores of their own: the thread that starts others goes to core 0, the n-th that
 * it starts to core n. For LD_PRELOAD, see compare.mjs. Linux only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

static void pin(pthread_t thread, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core % sysconf(_SC_NPROCESSORS_ONLN), &set);
  pthread_setaffinity_np(thread, sizeof set, &set);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
  static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static __thread int started; /* a graph's threads are started and joined by one thread */
  if (!create) create = dlsym(RTLD_NEXT, "pthread_create");
  int result = create(thread, attributes, start, argument);
  Dl_info info;
  if (result == 0 && dladdr((void *)start, &info) && info.dli_fname && strstr(info.dli_fname, "libggml-cpu")) {
    int others = (int)sysconf(_SC_NPROCESSORS_ONLN) - 1;
    pin(pthread_self(), 0);
    pin(*thread, others > 0 ? 1 + started++ % others : 0);
  }
  return result;
}
