# Clears away what is left of a run: processes that work in its folder, mounts below it, the folder itself.
# First it waits for its input to end: that of a watcher ends with the harness, however that dies.
folder=$1
if read -r over && [ "$over" = over ]; then exit 0; fi
for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    [ "$pid" = $$ ] && continue
    if tr '\0' '\n' < "$process/cmdline" | grep -qF "$folder/"; then kill -9 "$pid"; fi
done 2> /dev/null
# The newest mounts first: they lie on the others.
grep -F " $folder/" /proc/self/mounts | cut -d ' ' -f 2 | tac | while read -r mount; do
    umount -l "$mount" || fusermount3 -uzq "$mount"
done 2> /dev/null
rm -rf --one-file-system "$folder"
