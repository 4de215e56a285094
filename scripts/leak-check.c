/* A Node addon of one function, for scripts/asan.mjs: check() asks leak sanitizer for its report now.
 * The test runner ends its workers by a signal, and the report at exit would never come. */
#include <node_api.h>
#include <stddef.h>

int __lsan_do_recoverable_leak_check(void);

static napi_value Check(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value found;
  napi_create_int32(env, __lsan_do_recoverable_leak_check(), &found);
  return found;
}

NAPI_MODULE_INIT() {
  napi_value check;
  napi_create_function(env, "check", NAPI_AUTO_LENGTH, Check, NULL, &check);
  napi_set_named_property(env, exports, "check", check);
  return exports;
}
