/* A wall clock that jumps by a day whenever it is read, to and fro: what a node is preloaded with to prove that it goes by
 * another clock. Every other clock is the machine's own. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DAY_SECS 86400

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static unsigned reads;
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME)
        time->tv_sec += __atomic_fetch_add(&reads, 1, __ATOMIC_RELAXED) % 2 ? DAY_SECS : -DAY_SECS;
    return result;
}
