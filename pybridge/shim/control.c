/* control.c: the worker's end of the control socket.
 *
 * A plain C thread, unknown to Python, reads it, so that the end of the parent is noticed even
 * while some thread holds the GIL for ever. One byte is one order:
 *
 *   'q'           finish: parked threads return, boot.py's main() ends, Python exits as usual
 *   end of file   the parent has died: the same, and the process is gone after GS_ORPHAN_S
 *                 seconds whatever the app does
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define GS_ORPHAN_S 5

static void quit(void)
{
    gs_pool_quit(&shim.pool);
    gs_futex_wake(&shim.pool.quitting, 1 << 30, 0);
}

/* GIL never held: this thread is not Python's. */
static void *control_main(void *unused)
{
    char order;
    ssize_t n;

    (void)unused;
    for (;;) {
        n = read(shim.control, &order, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        if (order == 'q')
            quit();
    }
    quit();
    struct timespec grace = {GS_ORPHAN_S, 0};
    while (nanosleep(&grace, &grace) < 0 && errno == EINTR)
        continue;
    _exit(1);
}

/* GIL held. Starts the control thread on fd, every signal blocked in it: Python's handlers belong
 * to the main thread. 0, or an errno value. */
int gs_control_start(int fd)
{
    pthread_t thread;
    sigset_t all, old;

    shim.control = fd;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&thread, NULL, control_main, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err == 0)
        pthread_detach(thread);
    return err;
}
