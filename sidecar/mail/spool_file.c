// SPDX-License-Identifier: Apache-2.0
#include "mail/spool_file.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL_MAX     16
#define KEEP_BYTES   (1u << 20) /* a longer file is cut before it waits in the pool */
#define BUFFER_BYTES 8192       /* header lines come one by one: a usual mail is one write */

struct spool_dir {
    char *path;
    unsigned n_open, n_pooled;
    struct spool_file *pool[POOL_MAX];
};

struct spool_file {
    struct spool_dir *dir;
    int fd;
    uint64_t len; /* with what is still buffered */
    size_t n_buffered;
    char buffered[BUFFER_BYTES];
};

/* O_TMPFILE where the file system knows it (not overlayfs of old kernels), else create and unlink.
 */
static int open_unlinked(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd != -1 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    AUTO_FREE char *name = xasprintf("%s/svidmail.XXXXXX", dir);
    fd = mkostemp(name, O_CLOEXEC);
    if (fd != -1)
        unlink(name);
    return fd;
}

bool spool_dir_new(const char *const *directories, struct spool_dir **out, struct err *e)
{
    char tried[200] = "";
    for (; *directories != NULL; directories++) {
        int fd = open_unlinked(*directories);
        if (fd != -1) {
            close(fd);
            struct spool_dir *d = xcalloc(1, sizeof *d);
            d->path = xstrdup(*directories);
            *out = d;
            return true;
        }
        size_t n = strlen(tried);
        snprintf(tried + n, sizeof tried - n, "%s%s (%s)", n == 0 ? "" : ", ", *directories,
                 strerror(errno));
    }
    return err_set(e, ERR_IO, 0, "no directory for mails on their way: tried %s", tried);
}

static void destroy(struct spool_file *f)
{
    close(f->fd);
    free(f);
}

void spool_dir_free(struct spool_dir **d)
{
    if (*d == NULL)
        return;
    CHECK((*d)->n_open == 0);
    while ((*d)->n_pooled > 0)
        destroy((*d)->pool[--(*d)->n_pooled]);
    free((*d)->path);
    free(*d);
    *d = NULL;
}

const char *spool_dir_path(const struct spool_dir *d)
{
    return d->path;
}

bool spool_file_open(struct spool_dir *d, struct spool_file **out, struct err *e)
{
    struct spool_file *f;
    if (d->n_pooled > 0) {
        f = d->pool[--d->n_pooled];
    } else {
        int fd = open_unlinked(d->path);
        if (fd == -1)
            return err_set(e, ERR_IO, errno, "cannot make a file in %s", d->path);
        f = xcalloc(1, sizeof *f);
        f->fd = fd;
        f->dir = d;
    }
    f->len = 0;
    f->n_buffered = 0;
    d->n_open++;
    *out = f;
    return true;
}

static bool write_at(struct spool_file *f, struct str bytes, uint64_t offset, struct err *e)
{
    while (bytes.len > 0) {
        ssize_t n = pwrite(f->fd, bytes.p, bytes.len, (off_t)offset);
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1) {
            bool is_full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
            return err_set(e, is_full ? ERR_LIMIT : ERR_IO, errno, "write in %s", f->dir->path);
        }
        bytes = str_sub(bytes, (size_t)n, bytes.len);
        offset += (uint64_t)n;
    }
    return true;
}

static bool flush(struct spool_file *f, struct err *e)
{
    struct str bytes = {f->buffered, f->n_buffered};
    f->n_buffered = 0;
    return write_at(f, bytes, f->len - bytes.len, e);
}

bool spool_file_write(struct spool_file *f, struct str bytes, struct err *e)
{
    if (f->n_buffered + bytes.len > BUFFER_BYTES && !flush(f, e))
        return false;
    uint64_t offset = f->len;
    f->len += bytes.len;
    if (bytes.len >= BUFFER_BYTES)
        return write_at(f, bytes, offset, e);
    memcpy(f->buffered + f->n_buffered, bytes.p, bytes.len);
    f->n_buffered += bytes.len;
    return true;
}

bool spool_file_finish(struct spool_file *f, struct err *e)
{
    return flush(f, e);
}

void spool_file_close(struct spool_file **pf)
{
    struct spool_file *f = *pf;
    if (f == NULL)
        return;
    *pf = NULL;
    struct spool_dir *d = f->dir;
    d->n_open--;
    if (d->n_pooled == POOL_MAX || (f->len > KEEP_BYTES && ftruncate(f->fd, 0) == -1))
        destroy(f);
    else
        d->pool[d->n_pooled++] = f;
}

int spool_file_fd(const struct spool_file *f)
{
    return f->fd;
}

uint64_t spool_file_len(const struct spool_file *f)
{
    return f->len;
}
