/* Counts the words of all files below the folder named first and writes the total, and a line per file, to the file
 * named second. Built by examples/modules/build; WASI preview 1, nothing but the C library. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static FILE *report;
static long total;

static long words_of(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    long words = 0;
    int inside = 0;
    for (int c; (c = getc(file)) != EOF;) {
        int space = isspace(c);
        words += !space && !inside;
        inside = !space;
    }
    fclose(file);
    return words;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void count(const char *path) {
    struct stat about;
    if (stat(path, &about) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    if (!S_ISDIR(about.st_mode)) {
        long words = words_of(path);
        total += words;
        fprintf(report, "%8ld %s\n", words, path);
        return;
    }
    char *names[1024];
    size_t many = 0;
    DIR *folder = opendir(path);
    for (struct dirent *each; folder && (each = readdir(folder)) && many < 1024;)
        if (strcmp(each->d_name, ".") && strcmp(each->d_name, ".."))
            names[many++] = strdup(each->d_name);
    if (folder) closedir(folder);
    qsort(names, many, sizeof *names, by_name);
    for (size_t i = 0; i < many; i++) {
        char inner[4096];
        snprintf(inner, sizeof inner, "%s/%s", path, names[i]);
        count(inner);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: wordcount FOLDER REPORT\n");
        return 64;
    }
    report = fopen(argv[2], "w");
    if (!report) {
        fprintf(stderr, "%s: %s\n", argv[2], strerror(errno));
        return 2;
    }
    count(argv[1]);
    fprintf(report, "%8ld total\n", total);
    fclose(report);
    printf("%ld words\n", total);
    return 0;
}
