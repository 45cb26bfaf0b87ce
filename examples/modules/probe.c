/* Does one thing of many, for the tests of the WebAssembly engine and the benchmarks. The first argument says what. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "nothing";
    const char *first = argc > 2 ? argv[2] : "", *second = argc > 3 ? argv[3] : "";
    if (!strcmp(what, "nothing")) return 0;
    if (!strcmp(what, "exit")) return atoi(first);
    if (!strcmp(what, "tell")) { /* NAME: an environment variable */
        const char *value = getenv(first);
        printf("%s=%s\n", first, value ? value : "");
        return 0;
    }
    if (!strcmp(what, "print")) { /* TEXT to standard output, TEXT to standard error */
        fputs(first, stdout);
        fflush(stdout);
        fputs(second, stderr);
        return 0;
    }
    if (!strcmp(what, "count")) { /* the numbers from 1 to N */
        for (int i = 1; i <= atoi(first); i++) printf("%d\n", i);
        return 0;
    }
    if (!strcmp(what, "show")) { /* PATH: a file's content */
        FILE *from = fopen(first, "rb");
        if (!from) {
            fprintf(stderr, "%s: %s\n", first, strerror(errno));
            return 2;
        }
        for (int c; (c = getc(from)) != EOF;) putchar(c);
        return 0;
    }
    if (!strcmp(what, "write")) { /* PATH TEXT */
        FILE *to = fopen(first, "wb");
        if (!to || fputs(second, to) < 0 || fclose(to)) {
            fprintf(stderr, "%s: %s\n", first, strerror(errno));
            return 2;
        }
        return 0;
    }
    if (!strcmp(what, "copy")) { /* FROM TO */
        FILE *from = fopen(first, "rb"), *to = fopen(second, "wb");
        if (!from || !to) {
            fprintf(stderr, "%s: %s\n", from ? second : first, strerror(errno));
            return 2;
        }
        char piece[65536];
        for (size_t n; (n = fread(piece, 1, sizeof piece, from));) fwrite(piece, 1, n, to);
        return fclose(to) ? 2 : 0;
    }
    if (!strcmp(what, "spin")) {
        puts("ready");
        fflush(stdout);
        for (volatile unsigned long i = 0;; i++) {}
    }
    if (!strcmp(what, "sleep")) {
        puts("ready");
        fflush(stdout);
        struct timespec left = {atoi(first), 0};
        nanosleep(&left, NULL);
        return 0;
    }
    if (!strcmp(what, "grow")) { /* touch memory until there is no more */
        for (size_t got = 0;; got += 1 << 20) {
            volatile char *more = malloc(1 << 20); /* volatile: or the compiler sees that nobody reads it */
            if (!more) {
                fprintf(stderr, "no more after %zu MiB\n", got >> 20);
                abort();
            }
            for (size_t i = 0; i < 1 << 20; i += 4096) more[i] = 1;
        }
    }
    fprintf(stderr, "unknown: %s\n", what);
    return 64;
}
