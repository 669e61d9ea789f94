// SPDX-License-Identifier: Apache-2.0
/* spool_file: where a mail's bytes are while it is on its way: an unlinked file, so that a crash
 * leaves nothing and a full disk is met here, not in memory.  Nothing is durable yet: what SES has
 * not taken is answered 4xx. Files are kept in a small pool and used again.  Layer: mail.  Thread:
 * loop. */
#ifndef SVIDMAIL_MAIL_SPOOL_FILE_H
#define SVIDMAIL_MAIL_SPOOL_FILE_H
#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

struct spool_dir;
struct spool_file;

/* The first of the NULL-terminated directories in which an unlinked file can be made.  ERR_IO: none
 * of them; the message names each. */
NODISCARD bool spool_dir_new(const char *const *directories, struct spool_dir **out, struct err *e);
void spool_dir_free(struct spool_dir **d); /* no file may be open */
const char *spool_dir_path(const struct spool_dir *d);

/* ERR_IO: out of descriptors or disk trouble. */
NODISCARD bool spool_file_open(struct spool_dir *d, struct spool_file **out, struct err *e);
/* Append.  ERR_LIMIT: disk full; ERR_IO: other trouble.  After an error the file is only good for
 * closing. */
NODISCARD bool spool_file_write(struct spool_file *f, struct str bytes, struct err *e);
/* The last byte is in: from now on fd holds all of it.  Errors as spool_file_write(). */
NODISCARD bool spool_file_finish(struct spool_file *f, struct err *e);
void spool_file_close(struct spool_file **f);
int spool_file_fd(const struct spool_file *f); /* borrowed; pread only */
uint64_t spool_file_len(const struct spool_file *f);

#endif
