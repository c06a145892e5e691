/* Keeps a core from going idle, and gives way to whoever wants it.
 *
 * In:  awake CORE
 * Out: "awake" once it is; ends with its parent.
 *
 * A virtual core that goes idle is given back to its host, and has to wait for its turn there when work comes: milliseconds,
 * if others are busy. This has the least priority that there is (SCHED_IDLE, and in a session of its own, which the kernel's
 * autogroups weigh as a whole, the least weight), and asks after each moment whether somebody else wants to run.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 2) return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    FILE *group = fopen("/proc/self/autogroup", "w");
    if (group) {
        fputs("19", group);
        fclose(group);
    }
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(atoi(words[1]), &cores);
    struct sched_param none = {0};
    if (sched_setaffinity(0, sizeof cores, &cores) || sched_setscheduler(0, SCHED_IDLE, &none)) {
        perror("awake");
        return 1;
    }
    puts("awake");
    fflush(stdout);
    for (;;) sched_yield();
}
