/* The files that a configuration names, and that libcurl reads. */
#ifndef TR_CONFIG_FILES_H
#define TR_CONFIG_FILES_H

#include "fetch_config.h"

enum { TR_FILE_FAULT = 512 };

/*
** Check the files that libcurl opens for an attempt. It reads them to their end on the driver,
** while all other fetches stand still, so each has to be a regular file of a bounded size.
** 'secure': the attempt uses TLS. Return TR_OK, or the kind of the error with the
** reason, which names the option and the file. libcurl reports a file that is missing.
*/
tr_error_kind tr_config_check_files(const tr_config *config, bool secure,
                                    char why[TR_FILE_FAULT]);

#endif
