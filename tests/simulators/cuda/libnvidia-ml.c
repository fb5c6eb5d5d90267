/* A stand-in for libnvidia-ml.so.1: as many GPUs as are asked for, on a machine without one.
 *
 *   STAND_IN_GPUS  devices, 2 unless said        STAND_IN_MIG  ordinal of one divided into two
 *   STAND_IN_LOST  ordinal of one that fell off the bus
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_IS_LOST = 15 };
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
