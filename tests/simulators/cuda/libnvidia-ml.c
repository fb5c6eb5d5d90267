/* A stand-in for libnvidia-ml.so.1: as many GPUs as are asked for, on a machine without one.
 *
 *   STAND_IN_GPUS  devices, 2 unless said        STAND_IN_MIG  ordinal of one divided into two
 *   STAND_IN_LOST  ordinal of one that fell off the bus
 *   STAND_IN_NVLINK  the first so many are joined by NVLink   STAND_IN_SOCKET  so many to a socket
 *   STAND_IN_USERS "pid:MiB:percent ..." of who computes on each that is not divided; a percent of 0
 *                  is an idle one, which the driver leaves out
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { SLICE = 100 };

typedef struct { unsigned long long total, free, used; } Memory;

static int started;

static int number(const char *name, int otherwise) {
    const char *told = getenv(name);
    return told && *told ? atoi(told) : otherwise;
}

static int of(void *handle) { return (int)(intptr_t)handle - 1; }

int nvmlInitWithFlags(unsigned flags) { (void)flags; started++; return OK; }
int nvmlInit_v2(void) { started++; return OK; }
int nvmlShutdown(void) { return started-- > 0 ? OK : UNINITIALIZED; }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "stand-in error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!started) return UNINITIALIZED;
    *count = (unsigned)number("STAND_IN_GPUS", 2);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (!started) return UNINITIALIZED;
    if (index >= (unsigned)number("STAND_IN_GPUS", 2)) return INVALID_ARGUMENT;
    if ((int)index == number("STAND_IN_LOST", -1)) return GPU_IS_LOST;
    *handle = (void *)(intptr_t)(index + 1);
    return OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *pending) {
    if (number("STAND_IN_MIG", -1) < 0) return NOT_SUPPORTED;
    *now = *pending = of(handle) == number("STAND_IN_MIG", -1);
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { (void)handle; *count = 7; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **slice) {
    if (index > 1) return NOT_FOUND;
    *slice = (void *)(intptr_t)(of(handle) * 2 + (int)index + SLICE + 1);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    int device = of(handle);
    snprintf(uuid, length, "%s-5741ed10-0000-4000-8000-%012x", device < SLICE ? "GPU" : "MIG", (unsigned)device);
    return OK;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    snprintf(name, length, "Stand-in %d", of(handle));
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    unsigned long long gib = 1ull << 30;
    *memory = (Memory){80 * gib, (unsigned long long)(10 + of(handle)) * gib, 0};
    memory->used = memory->total - memory->free;
    return OK;
}

int nvmlDeviceGetP2PStatus(void *one, void *other, int capability, int *status) {
    int joined = number("STAND_IN_NVLINK", 0);
    if (!joined) return NOT_SUPPORTED;
    *status = capability == 2 && of(one) < joined && of(other) < joined ? 0 : 5;
    return OK;
}

int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, int *level) {
    int each = number("STAND_IN_SOCKET", 0);
    if (!each) return NOT_SUPPORTED;
    *level = of(one) / each == of(other) / each ? 30 : 50;
    return OK;
}

typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; } Use;

/* Reads the next user from *told and moves on; 0 at the end. */
static int next_user(const char **told, unsigned *pid, unsigned *mib, unsigned *percent) {
    int taken = 0;
    if (!*told || sscanf(*told, " %u:%u:%u%n", pid, mib, percent, &taken) < 3) return 0;
    *told += taken;
    return 1;
}

int nvmlDeviceGetUtilizationRates(void *handle, Rates *rates) {
    if (of(handle) >= SLICE) return NOT_SUPPORTED;
    *rates = (Rates){40, 10};
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *found) {
    const char *told = getenv("STAND_IN_USERS");
    unsigned pid, mib, percent, number = 0;
    (void)handle;
    while (next_user(&told, &pid, &mib, &percent)) {
        if (found && number < *count) found[number] = (Process){pid, (unsigned long long)mib << 20, 0, 0};
        number++;
    }
    int fits = number <= *count;
    *count = number;
    return fits ? OK : INSUFFICIENT_SIZE;
}

/* One that computes and draws stands in both lists. */
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, Process *found) {
    return nvmlDeviceGetComputeRunningProcesses_v3(handle, count, found);
}

int nvmlDeviceGetProcessUtilization(void *handle, Use *found, unsigned *count, unsigned long long since) {
    const char *told = getenv("STAND_IN_USERS");
    unsigned pid, mib, percent, number = 0;
    if (of(handle) >= SLICE) return NOT_SUPPORTED;
    /* What was told once is not told again. */
    if (since >= 1000) return NOT_FOUND;
    while (next_user(&told, &pid, &mib, &percent)) {
        if (!percent) continue;
        if (found && number < *count) found[number] = (Use){pid, 1000, percent, 0, 0, 0};
        number++;
    }
    int fits = found && number <= *count;
    *count = number;
    if (!number) return NOT_FOUND;
    return fits ? OK : INSUFFICIENT_SIZE;
}
