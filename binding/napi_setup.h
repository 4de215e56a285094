// The one place that includes node-addon-api, so that every file sees it with the same settings.
#pragma once

#ifndef NAPI_VERSION
#define NAPI_VERSION 8
#endif
// When a worker is being terminated nothing can be thrown into it any more; that is not a bug.
#ifndef NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#endif

#include <napi.h>
