/* The folder of a run, and who runs. */
#ifndef BENCH_RUN_FOLDER_H
#define BENCH_RUN_FOLDER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PID_FILE "pid"
#define LEASE_FILE "lease"
#define LOG_FILE "log"
#define STATE_FILE "state"
#define RESULT_FILE "result.json"
#define RESULT_PART RESULT_FILE ".tmp"

/* A process for good: its number may be another's by now, its number and start are not. */
typedef struct process {
  pid_t pid;
  uint64_t start;
} process;

int process_is_alive(const process *p);

/* Writes "PID START SUPERVISOR START" by rename. 0, or -1 with errno. */
int run_folder_write_pids(int folder, const process *worker, const process *supervisor);

/* Whether the file is there and right. */
int run_folder_read_pids(int folder, process *worker, process *supervisor);

/* The last line of the log that is not empty, without its newline; empty where there is none. */
void run_folder_last_line(int folder, char *out, size_t size);

/* Removes the result, whole or half. */
void run_folder_drop_result(int folder);

/* Removes a run's own files, the state last, and the folder. 0, or -1 with errno: ENOTEMPTY where others are in it. */
int run_folder_remove(const char *path, int folder);

#endif
