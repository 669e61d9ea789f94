// SPDX-License-Identifier: Apache-2.0
#include "app/screen_doctor.h"
#include "app/screen.h"
#include "base/mem.h"
#include "base/str.h"

#include <string.h>

#define TEXT_MAX 2048

/* UTF-8, whatever the locale: a container has none, and terminals are. */
static const struct {
    const char *result, *mark, *words; /* words: for the last line */
} marks[] = {{"ok", "\xe2\x88\x9a", "fine"},
             {"warning", "\xe2\x80\xbc", "to look at"},
             {"failed", "\xc3\x97", "failed"},
             {"not_checked", "-", "not checked"}};

static const char *mark_of(const char *result)
{
    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        if (strcmp(marks[i].result, result) == 0)
            return marks[i].mark;
    return "?";
}

static void print_hint(const json_t *check, const char *lead, const char *key, FILE *to)
{
    char text[TEXT_MAX];
    if (screen_text(check, key, text, sizeof text)[0] != '\0')
        fprintf(to, "    %s%s\n", lead, text);
}

static void print_hints(const json_t *check, FILE *to)
{
    char code[32], title[TEXT_MAX], line[TEXT_MAX];
    const json_t *cure = json_object_get(check, "cure");
    if (json_object_get(check, "code") == NULL)
        return;
    fprintf(to, "    %s %s\n", screen_text(check, "code", code, sizeof code),
            screen_text(check, "title", title, sizeof title));
    for (size_t i = 0; i < json_array_size(cure); i++) {
        const char *z = json_string_value(json_array_get(cure, i));
        fprintf(to, "      %s\n", str_escape(line, sizeof line, str_from(z)));
    }
    print_hint(check, "gateway log: ", "gateway_log", to);
    print_hint(check, "see ", "see", to);
}

static void print_check(const json_t *check, FILE *to)
{
    char result[32], name[TEXT_MAX], text[TEXT_MAX];
    screen_text(check, "result", result, sizeof result);
    bool is_unchecked = strcmp(result, "not_checked") == 0;
    fprintf(to, "%s %s: %s%s\n", mark_of(result), screen_text(check, "check", name, sizeof name),
            is_unchecked ? "not checked, " : "", screen_text(check, "text", text, sizeof text));
    print_hints(check, to);
}

static void print_category(const char *name, bool is_first, FILE *to)
{
    fprintf(to, "%s%s\n", is_first ? "" : "\n", name);
    for (size_t i = 0; name[i] != '\0'; i++)
        fputc('-', to);
    fputc('\n', to);
}

void screen_doctor(const json_t *found, FILE *to)
{
    const json_t *checks = json_object_get(found, "checks");
    const json_t *counts = json_object_get(found, "counts");
    char last[TEXT_MAX] = "", category[TEXT_MAX];
    for (size_t i = 0; i < json_array_size(checks); i++) {
        const json_t *check = json_array_get(checks, i);
        if (strcmp(screen_text(check, "category", category, sizeof category), last) != 0)
            print_category(category, i == 0, to);
        str_copy(last, sizeof last, str_from(category));
        print_check(check, to);
    }
    fputc('\n', to);
    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        fprintf(to, "%s%lld %s", i == 0 ? "" : ", ",
                (long long)json_integer_value(json_object_get(counts, marks[i].result)),
                marks[i].words);
    fputc('\n', to);
}
