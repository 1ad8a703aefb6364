#!/bin/sh
# Puts the kernels that were compiled with the image where they can be read and added to, then runs the
# command line. The volume may be empty and must be writable; the rest of the file system need not be.
set -eu
baked=/opt/modelwarden/kernels
if [ -d "$baked" ]; then
    cp --archive --no-clobber --no-preserve=ownership "$baked/." "$NUMBA_CACHE_DIR/"
fi
exec modelwarden "$@"
