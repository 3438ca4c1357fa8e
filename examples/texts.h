/* texts.h - text sets for the examples: CSV and TSV files, as the sets that images.h has
   Not part of kd.h. Include it in one source file, after images.h.

   texts_load() understands
     a file     data.csv or data.tsv, which is then split
     a folder   with train.csv and test.csv and, to choose with, val.csv, valid.csv, validation.csv or dev.csv; or
                with .tsv for .csv; or with one such file of any name
   The first line names the columns: one is text, sentence or question, one category, label, class or intent;
   others are left alone. Fields are as in RFC 4180: with commas between them (or tabs, or semicolons, as the first
   line has them), in quotes where they hold any of these, a line break, or a quote, which is then doubled. Lines
   end in LF or CR LF; UTF-8, with a byte order mark or without. White space around a text or a label goes.
   A row that cannot be used is named by its line, skipped and counted, and too many of them are an error. Texts
   that are longer than the set's length are cut, between letters. A set has texts as bytes, filled up with zeros,
   in place of pixels: channels is the length, height and width are 1. */
#ifndef TEXTS_H
#define TEXTS_H

typedef struct texts_options {
    int length;         /* bytes, 16 to 4096; 0: what nine of ten texts fit into, a multiple of 16, up to 512 */
    double test_share;  /* of each class, where there is no file for that; 0.2 */
    double max_skipped; /* share of rows that may be unusable; 0.01 */
    int limit;          /* texts a class and split; 0: all */
    int train_limit;    /* as limit, of the texts to learn from alone */
    uint64_t seed;      /* of the split */
    int folds, fold;    /* as in images_options */
} texts_options;

enum { TEXTS_LEAST = 16, TEXTS_MOST = 4096, TEXTS_AUTO = 512 };

IMAGES_PUBLIC static texts_options texts_defaults(void)
{
    texts_options o = {0, 0.2, 0.01, 0, 0, 1, 0, 0};
    return o;
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

typedef struct texts_row {
    char *text, *label; /* in the bytes of the file, ended by a 0 */
    int line;           /* on which the row begins, from 1 */
    int class_index;
} texts_row;

/* A file while it is read. Fields are brought to what they stand for where they lie. */
typedef struct texts_file {
    char *path, *bytes, *at, *end;
    const char *name; /* in sentences, and for images.paths */
    int number;       /* among images.paths */
    char separator;
    int line, columns, text, label; /* columns: of the first line; text, label: which */
    int open;                       /* a quote was never closed */
    int unlabelled;                 /* there need be no labels */
    texts_row *rows;
    int count, capacity, tried;
} texts_file;

enum { TEXTS_COLUMNS = 256 };

/* A field at f->at, ended by a 0; *more: another one of the row follows. *why: what is wrong with it. */
static char *texts_field(texts_file *f, int *more, const char **why)
{
    char *start = f->at, *to = f->at, *c = f->at;
    int quoted = c < f->end && *c == '"', good = 1;
    if (quoted) ++c;
    while (c < f->end) {
        if (quoted && *c == '"') {
            if (c + 1 < f->end && c[1] == '"') {
                *to++ = '"', c += 2;
                continue;
            }
            quoted = 0;
            ++c;
            if (c < f->end && *c != f->separator && *c != '\n' &&
                !(*c == '\r' && (c + 1 == f->end || c[1] == '\n')))
                good = 0;
            continue;
        }
        if (!quoted && (*c == f->separator || *c == '\n')) break;
        f->line += *c == '\n';
        *to++ = *c++;
    }
    *more = c < f->end && *c == f->separator;
    f->open |= quoted;
    if (!quoted && !good) *why = "has something behind a closing quote";
    if (c < f->end && *c == '\n') ++f->line;
    f->at = c < f->end ? c + 1 : c;
    if (!*more && to > start && to[-1] == '\r' && c > start && c[-1] == '\r') --to;
    *to = 0; /* there is room: behind the last byte, too */
    if ((size_t)(to - start) != strlen(start)) *why = "has a byte of 0 in it";
    return start;
}

/* The fields of a row, as many as there is room for; how many there are. */
static int texts_fields(texts_file *f, char **fields, const char **why)
{
    int count = 0, more = 1;
    *why = NULL;
    while (more) {
        char *field = texts_field(f, &more, why);
        if (count < TEXTS_COLUMNS) fields[count] = field;
        ++count;
    }
    return count;
}

/* Without white space around it. */
static char *texts_trim(char *text)
{
    char *end = text + strlen(text);
    while (end > text && strchr(" \t\r\n", end[-1])) --end;
    *end = 0;
    return text + strspn(text, " \t\r\n");
}

static int texts_is_utf8(const char *text)
{
    int step = 1;
    for (; *text && step; text += step) step = images_utf8(text);
    return step > 0;
}

static int texts_is_word(const char *field, const char *const *words)
{
    int i;
    size_t k;
    for (i = 0; words[i]; ++i) {
        for (k = 0; field[k] && tolower((unsigned char)field[k]) == words[i][k]; ++k) {}
        if (!field[k] && !words[i][k]) return 1;
    }
    return 0;
}

/* The first line: which separator stands between its words, and which column is for what. */
static int texts_header(images *s, texts_file *f)
{
    static const char *const text_words[] = {"text", "sentence", "question", NULL}, *const label_words[] = {
                                                                                        "category", "label",
                                                                                        "class", "intent", NULL};
    static const char separators[] = ",\t;";
    char *fields[TEXTS_COLUMNS], shown[300] = "";
    const char *why, *c;
    int i, counts[3] = {0, 0, 0}, best = 0;
    for (c = f->at; c < f->end && *c != '\n'; ++c) {
        for (i = 0; i < 3; ++i) counts[i] += *c == separators[i];
    }
    for (i = 1; i < 3; ++i) {
        if (counts[i] > counts[best]) best = i;
    }
    f->separator = separators[best];
    f->columns = texts_fields(f, fields, &why);
    f->text = f->label = -1;
    for (i = 0; i < f->columns && i < TEXTS_COLUMNS; ++i) {
        const char *name = texts_trim(fields[i]);
        if (f->text < 0 && texts_is_word(name, text_words)) f->text = i;
        if (f->label < 0 && texts_is_word(name, label_words)) f->label = i;
        snprintf(shown + strlen(shown), sizeof shown - strlen(shown), "%s\"%.40s\"", i ? ", " : "", name);
    }
    if (f->text >= 0 && (f->label >= 0 || f->unlabelled)) return 1;
    if (f->unlabelled) return images_fail(s, "%s, line 1: no column is named \"text\", got %.200s", f->name, shown);
    return images_fail(s,
                       "%s, line 1: the columns must have names, one of them \"text\" and one \"label\" or "
                       "\"category\", got %.200s",
                       f->name, shown);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static void texts_skip(images *s, const texts_file *f, int line, const char *why)
{
    if (s->skipped < IMAGES_LISTED)
        snprintf(s->listed[s->skipped], sizeof s->listed[0], "%s, line %d: %s", f->name, line, why);
    images_count_reason(s, why);
    ++s->skipped;
}

static int texts_keep(images *s, texts_file *f, texts_row row)
{
    if (f->count == f->capacity) {
        texts_row *bigger =
            (texts_row *)realloc(f->rows, (size_t)(f->capacity = 2 * f->capacity + 256) * sizeof *bigger);
        if (!bigger) return images_fail(s, "out of memory");
        f->rows = bigger;
    }
    f->rows[f->count++] = row;
    return 1;
}

static int texts_rows(images *s, texts_file *f)
{
    char *fields[TEXTS_COLUMNS];
    while (f->at < f->end) {
        const char *why;
        texts_row row;
        int count;
        row.line = f->line;
        row.class_index = -1;
        count = texts_fields(f, fields, &why);
        if (f->open)
            return images_fail(s, "%s, line %d: a quote is opened in this row and never closed", f->name, row.line);
        if (count == 1 && !*texts_trim(fields[0]) && !why) continue; /* an empty line */
        ++f->tried;
        if (!why && count < f->columns) why = "has fewer columns than the first line";
        if (!why && count > f->columns)
            why = "has more columns than the first line: is a text with a separator in quotes?";
        if (why) {
            texts_skip(s, f, row.line, why);
            continue;
        }
        row.text = texts_trim(fields[f->text]);
        row.label = f->label >= 0 ? texts_trim(fields[f->label]) : row.text;
        if (!*row.text) why = "has no text";
        if (!why && !*row.label && !f->unlabelled) why = "has no label";
        if (!why && (!texts_is_utf8(row.text) || !texts_is_utf8(row.label))) why = "is not in UTF-8";
        if (why)
            texts_skip(s, f, row.line, why);
        else if (!texts_keep(s, f, row))
            return 0;
    }
    return 1;
}

/* A text a line. */
static int texts_lines(images *s, texts_file *f)
{
    char *end;
    const char *why;
    texts_row row;
    for (; f->at < f->end; f->at = end + 1) {
        for (end = f->at; end < f->end && *end != '\n'; ++end) {}
        *end = 0;
        row.line = f->line++;
        row.class_index = -1;
        why = strlen(f->at) != (size_t)(end - f->at) ? "has a byte of 0 in it" : NULL;
        row.text = row.label = texts_trim(f->at);
        if (!*row.text) continue;
        ++f->tried;
        if (!why && !texts_is_utf8(row.text)) why = "is not in UTF-8";
        if (why)
            texts_skip(s, f, row.line, why);
        else if (!texts_keep(s, f, row))
            return 0;
    }
    return 1;
}

static int texts_ends(const char *path, const char *end)
{
    const size_t length = strlen(path);
    return length > 4 && strcmp(path + length - 4, end) == 0;
}

/* Reads one file, NULL: there is none. above: bytes of its path that are not shown. */
static int texts_read(images *s, texts_file *f, size_t above)
{
    const char *why;
    size_t size;
    uint8_t *bytes;
    if (!f->path) return 1;
    f->name = f->path + above;
    bytes = images_read(f->path, &size, &why);
    if (!bytes) return images_fail(s, "%s %s", images_shown(f->path).chars, why);
    f->bytes = (char *)images_memory(size + 1, 1); /* a byte more, for the 0 behind the last field */
    if (f->bytes) memcpy(f->bytes, bytes, size);
    free(bytes);
    if (!f->bytes) return images_fail(s, "out of memory");
    f->at = f->bytes, f->end = f->bytes + size;
    *f->end = 0;
    f->line = 1;
    if (size >= 2 && (memcmp(f->at, "\xff\xfe", 2) == 0 || memcmp(f->at, "\xfe\xff", 2) == 0))
        return images_fail(s, "%s is in UTF-16: save it in UTF-8", images_shown(f->path).chars);
    if (size >= 3 && memcmp(f->at, "\xef\xbb\xbf", 3) == 0) f->at += 3;
    f->number = images_add_path(s, f->name);
    if (f->number < 0) return images_fail(s, "out of memory");
    if (f->unlabelled && texts_ends(f->path, ".txt")) return texts_lines(s, f);
    return texts_header(s, f) && texts_rows(s, f);
}

/* The texts of one file, whatever is said about them: of a table, or, of a .txt file, a text a line. f->rows; rows
   that are left out are in s->listed. 1, or 0 and s->error; texts_file_free(f), images_free(s) in either case. */
IMAGES_PUBLIC static int texts_open(images *s, texts_file *f, const char *path)
{
    memset(s, 0, sizeof *s);
    memset(f, 0, sizeof *f);
    f->unlabelled = 1;
    f->path = images_join("", path);
    return f->path ? texts_read(s, f, 0) : images_fail(s, "out of memory");
}

static void texts_file_free(texts_file *f)
{
    free(f->path);
    free(f->bytes);
    free(f->rows);
}

/* The files of a folder, or one that is given itself. */
static int texts_find(images *s, const char *path, texts_file *files, size_t *above)
{
    static const char *const names[IMAGES_SPLITS][5] = {
        {"train", NULL}, {"val", "valid", "validation", "dev", NULL}, {"test", NULL}};
    static const char *const ends[] = {".csv", ".tsv"};
    char **list = NULL;
    int count = 0, i, k, e, found = 0, tables = 0;
    const char *slash = strrchr(path, '/');
    *above = slash ? (size_t)(slash - path) + 1 : 0;
    if (!images_is_folder(path)) {
        files[IMAGES_TRAIN].path = images_join("", path);
        return files[IMAGES_TRAIN].path ? 1 : images_fail(s, "out of memory");
    }
    *above = strlen(path) + (path[strlen(path) - 1] != '/');
    if (!images_names(s, path, &list, &count, NULL)) return 0;
    for (i = 0; i < count; ++i) {
        const size_t length = strlen(list[i]);
        for (e = 0; e < 2; ++e) {
            if (length <= 4 || strcmp(list[i] + length - 4, ends[e]) != 0) continue;
            ++tables;
            found = i;
            for (k = 0; k < IMAGES_SPLITS; ++k) {
                const char *const *word = names[k];
                while (*word && (strlen(*word) != length - 4 || strncmp(*word, list[i], length - 4) != 0)) ++word;
                if (*word && !files[k].path) files[k].path = images_join(path, list[i]);
            }
        }
    }
    if (!files[IMAGES_TRAIN].path && tables == 1) { /* whatever it is called */
        for (k = 0; k < IMAGES_SPLITS; ++k) free(files[k].path), files[k].path = NULL;
        files[IMAGES_TRAIN].path = images_join(path, list[found]);
    }
    images_names_free(list, count);
    return files[IMAGES_TRAIN].path
               ? 1
               : images_fail(s, "%s has no train.csv, nor a single .csv or .tsv file", images_shown(path).chars);
}

/* Whether a path leads to texts: a .csv or .tsv file, or a folder with such that holds no folders, as those of
   images do. */
IMAGES_PUBLIC static int texts_are(const char *path)
{
    texts_file files[IMAGES_SPLITS];
    images s;
    size_t above;
    char **names = NULL;
    int i, found, count = 0;
    if (texts_ends(path, ".csv") || texts_ends(path, ".tsv")) return 1;
    if (!images_is_folder(path)) return 0;
    memset(&s, 0, sizeof s);
    memset(files, 0, sizeof files);
    found = texts_find(&s, path, files, &above) && images_names(&s, path, &names, &count, NULL);
    for (i = 0; i < count && found; ++i) {
        char *inside = images_join(path, names[i]);
        if (inside && images_is_folder(inside)) found = 0;
        free(inside);
    }
    images_names_free(names, count);
    for (i = 0; i < IMAGES_SPLITS; ++i) free(files[i].path);
    return found;
}

/* ---- sets ------------------------------------------------------------------------------------------------ */

/* The classes are those of the texts to learn from, in byte order. A row elsewhere with another label is left
   out. */
static int texts_classes(images *s, texts_file *files)
{
    int i, k, kept;
    texts_file *f = &files[IMAGES_TRAIN];
    for (i = 0; i < f->count; ++i) {
        if (images_class(s, f->rows[i].label, strlen(f->rows[i].label)) < 0) return 0;
    }
    if (s->class_count < 2)
        return images_fail(s, "%s has %s: there is nothing to tell apart", f->name,
                           s->class_count ? "one class" : "no row that can be used");
    qsort(s->class_names, (size_t)s->class_count, sizeof *s->class_names, images_by_text);
    for (k = 0; k < IMAGES_SPLITS; ++k) {
        f = &files[k];
        for (i = kept = 0; i < f->count; ++i) {
            f->rows[i].class_index = images_find_class(s, f->rows[i].label, strlen(f->rows[i].label));
            if (f->rows[i].class_index < 0)
                texts_skip(s, f, f->rows[i].line, "has a label that no text to learn from has");
            else
                f->rows[kept++] = f->rows[i];
        }
        f->count = kept;
    }
    return 1;
}

static int texts_by_size(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return x < y ? -1 : x > y;
}

/* What nine of ten fit into. */
static int texts_length(images *s, const texts_file *f)
{
    size_t *sizes = (size_t *)images_memory((size_t)f->count, sizeof *sizes), length;
    int i;
    if (!sizes) return images_fail(s, "out of memory");
    for (i = 0; i < f->count; ++i) sizes[i] = strlen(f->rows[i].text);
    qsort(sizes, (size_t)f->count, sizeof *sizes, texts_by_size);
    length = (sizes[f->count - 1 - f->count / 10] + 15) / 16 * 16;
    free(sizes);
    return length < TEXTS_LEAST ? (int)TEXTS_LEAST : length > TEXTS_AUTO ? (int)TEXTS_AUTO : (int)length;
}

/* The bytes that are kept of a text: not a part of a letter. */
static size_t texts_cut(const char *text, size_t most)
{
    size_t length = strlen(text);
    if (length <= most) return length;
    for (length = most; length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80; --length) {}
    return length;
}

/* The rows of a file as a set, of each class as many as the limit allows, 0: all. */
static int texts_fill(images *s, const texts_file *f, int limit, images_set *set, int *cut)
{
    int *taken, i;
    if (!f->path) return 1;
    taken = (int *)images_memory((size_t)s->class_count, sizeof *taken);
    set->pixels = (uint8_t *)images_memory((size_t)f->count, (size_t)s->channels);
    set->labels = (int32_t *)images_memory((size_t)f->count, sizeof *set->labels);
    set->origin = (images_origin *)images_memory((size_t)f->count, sizeof *set->origin);
    for (i = 0; taken && set->pixels && set->labels && set->origin && i < f->count; ++i) {
        const texts_row *row = &f->rows[i];
        const size_t length = texts_cut(row->text, (size_t)s->channels);
        if (limit && taken[row->class_index]++ >= limit) continue;
        *cut += row->text[length] != 0;
        memcpy(set->pixels + (size_t)set->count * (size_t)s->channels, row->text, length);
        set->labels[set->count] = row->class_index;
        set->origin[set->count].file = f->number;
        set->origin[set->count].place = row->line;
        ++set->count;
    }
    free(taken);
    return i == f->count || images_fail(s, "out of memory");
}

static int texts_check_split(images *s, const char *where, const images_set *set)
{
    int c, i;
    for (c = 0; c < s->class_count; ++c) {
        for (i = 0; i < set->count && set->labels[i] != c; ++i) {}
        if (i == set->count) return images_fail(s, "class \"%.200s\" has no text in %s", s->class_names[c], where);
    }
    return 1;
}

static int texts_make(images *s, texts_file *files, const texts_options *o)
{
    texts_file *train = &files[IMAGES_TRAIN], *test = &files[IMAGES_TEST];
    const int limit = o->train_limit && (!o->limit || o->train_limit < o->limit) ? o->train_limit : o->limit;
    const int tried = train->tried + files[IMAGES_VALIDATION].tried + test->tried;
    int cut = 0;
    if (!texts_classes(s, files)) return 0;
    if (s->skipped > o->max_skipped * tried)
        return images_fail(s, "%d of %d rows cannot be used (more than the share of %s allowed), first: %s",
                           s->skipped, tried, images_number_of(o->max_skipped).chars, s->listed[0]);
    s->channels = o->length ? o->length : texts_length(s, train);
    s->height = s->width = 1;
    if (!s->channels || !texts_fill(s, train, test->path ? limit : o->limit, &s->train, &cut) ||
        !texts_fill(s, &files[IMAGES_VALIDATION], o->limit, &s->validation, &cut) ||
        !texts_fill(s, test, o->limit, &s->test, &cut))
        return 0;
    s->files = tried;
    if (test->path && !texts_check_split(s, test->name, &s->test)) return 0;
    if (test->path && o->folds)
        return images_fail(s, "%s is for testing; folds take their test texts out of one file", test->name);
    if (cut)
        images_say(s, "%d of %d texts have more than %d bytes and are cut there; --length keeps more", cut,
                   s->train.count + s->validation.count + s->test.count, s->channels);
    if (!test->path) {
        images_options split = images_defaults();
        split.test_share = o->test_share;
        split.train_limit = limit;
        split.seed = o->seed;
        split.folds = o->folds, split.fold = o->fold;
        if (o->folds)
            images_say(s, "no file is for testing: part %d of %d of each class is kept for that", o->fold + 1,
                       o->folds);
        else
            images_say(s, "no file is for testing: %.3g %% of each class is kept for that, drawn by the seed",
                       100 * o->test_share);
        return images_split(s, &split) &&
               texts_check_split(s, "the test split; where no file is for testing, a class needs two", &s->test);
    }
    return 1;
}

static void texts_say_all(images *s)
{
    int i;
    for (i = 0; i < IMAGES_REASONS && s->reasons[i].why; ++i)
        images_say(s, "%d row%s left out, %swhich %s", s->reasons[i].count, s->reasons[i].count == 1 ? "" : "s",
                   s->reasons[i].count == 1 ? "" : "each of ", s->reasons[i].why);
    images_say_dominance(s);
    images_say_copies(s);
}

/* 1, or 0 and s->error. images_free(s) in either case. */
IMAGES_PUBLIC static int texts_load(images *s, const char *path, const texts_options *options)
{
    const texts_options defaults = texts_defaults(), *o = options ? options : &defaults;
    texts_file files[IMAGES_SPLITS];
    size_t above = 0;
    int ok, i;
    memset(s, 0, sizeof *s);
    memset(files, 0, sizeof files);
    s->are_texts = images_of_texts = 1;
    if (o->length != 0 && (o->length < TEXTS_LEAST || o->length > TEXTS_MOST))
        return images_fail(s, "the length of texts must be %d to %d bytes, got %d", (int)TEXTS_LEAST,
                           (int)TEXTS_MOST, o->length);
    ok = texts_find(s, path, files, &above);
    for (i = 0; i < IMAGES_SPLITS && ok; ++i) ok = texts_read(s, &files[i], above);
    ok = ok && texts_make(s, files, o) && images_find_copies(s);
    if (ok) texts_say_all(s);
    for (i = 0; i < IMAGES_SPLITS; ++i) texts_file_free(&files[i]);
    return ok;
}

/* The texts of a table, whatever labels they have, or of a .txt file, one a line, as further ones of a set that has
   been loaded, without labels: s->unlabelled. As images_load_unlabelled otherwise. 1, or 0 and s->error. */
IMAGES_PUBLIC static int texts_load_unlabelled(images *s, const char *path, const texts_options *options)
{
    const texts_options defaults = texts_defaults(), *o = options ? options : &defaults;
    const images before = *s;
    const char *slash = strrchr(path, '/');
    texts_file f;
    int ok, i, cut = 0;
    memset(&f, 0, sizeof f);
    f.unlabelled = 1;
    f.path = images_join("", path);
    ok = f.path ? texts_read(s, &f, slash ? (size_t)(slash - path) + 1 : 0) : images_fail(s, "out of memory");
    if (ok && s->skipped - before.skipped > o->max_skipped * f.tried)
        ok = images_fail(s, "%d of %d rows cannot be used (more than the share of %s allowed) of %s",
                         s->skipped - before.skipped, f.tried, images_number_of(o->max_skipped).chars,
                         images_shown(path).chars);
    if (ok && !f.count) ok = images_fail(s, "there is no text in %s", images_shown(path).chars);
    ok = ok && texts_fill(s, &f, 0, &s->unlabelled, &cut) && images_find_copies(s);
    s->files += f.tried;
    texts_file_free(&f);
    if (!ok) return 0;
    if (cut)
        images_say(s, "%d of the texts without labels have more than %d bytes and are cut there", cut, s->channels);
    for (i = 0; i < IMAGES_REASONS && s->reasons[i].why; ++i) {
        const int count = s->reasons[i].count - before.reasons[i].count;
        if (count)
            images_say(s, "%d row%s of %s left out, %swhich %s", count, count == 1 ? "" : "s",
                       images_shown(path).chars, count == 1 ? "" : "each of ", s->reasons[i].why);
    }
    images_say_count(s, s->copies.unlabelled, "of the texts without labels is an exact copy of another among them",
                     "of the texts without labels are exact copies of others among them");
    images_say_count(s, s->copies.test_in_unlabelled, "of the test texts is among the texts without labels as well",
                     "of the test texts are among the texts without labels as well");
    return 1;
}

#endif /* TEXTS_H */
