# ss_module(NAME [DEPENDS other modules...] [LIBRARIES third-party targets...])
#
# A folder is a module. Sources are found by name: x.cc belongs to the library ss_NAME, x_test.cc to
# the GoogleTest program NAME_test, x_bench.cc to the Google Benchmark program NAME_bench,
# x_fuzz.cc becomes one libFuzzer program x_fuzz, x_main.cc one program x (see ss_program).
set(SS_WARNINGS -Wall -Wextra -Wconversion -Wshadow -Werror)

# Sources in one unit, at most: two cores share a large module, and a change compiles little else again.
set(SS_UNITY_SOURCES 8)

add_library(ss_options INTERFACE)
target_compile_options(ss_options INTERFACE ${SS_WARNINGS})
target_include_directories(ss_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
if(SS_SANITIZE)
  # GCC's flow warnings are wrong in instrumented code; the other builds have them.
  target_compile_options(
    ss_options INTERFACE -fsanitize=${SS_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow;-Wno-array-bounds;-Wno-maybe-uninitialized>)
  target_link_options(ss_options INTERFACE -fsanitize=${SS_SANITIZE})
endif()

# Makes a program one of GoogleTest. Its sources are compiled without optimization: they run for
# seconds, and optimizing what the assertions expand to takes longer. The libraries under test keep
# their flags. Not under ThreadSanitizer: what stays out of line then serves uninstrumented libraries
# (gRPC) too, whose side of a shared pointer it does not see.
function(ss_gtest target label)
  find_package(GTest REQUIRED)
  include(GoogleTest)
  target_link_libraries(${target} PRIVATE GTest::gmock GTest::gtest_main)
  if("${SS_SANITIZE}" STREQUAL "thread")
    target_link_options(${target} PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/tools/tsan.map)
  else()
    target_compile_options(${target} PRIVATE "$<$<CONFIG:RelWithDebInfo>:-O0;-g1>")
  endif()
  gtest_discover_tests(${target} NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60 PROPERTIES LABELS ${label} TIMEOUT 120)
endfunction()

# Many small sources share their headers, whose compilation costs more than theirs: with SS_UNITY some of
# a target are compiled as one. Names in unnamed namespaces are then unique in a module. Single sources
# with options of their own stay alone.
function(ss_unity target)
  if(SS_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${SS_UNITY_SOURCES})
  endif()
endfunction()

function(ss_module name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;LIBRARIES;EXCLUDE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(benches ${sources})
  list(FILTER benches INCLUDE REGEX "_bench\\.cc$")
  set(fuzzers ${sources})
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")
  list(FILTER sources EXCLUDE REGEX "(_test|_bench|_fuzz|_main)\\.cc$")
  foreach(excluded ${ARG_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX "/${excluded}$")
    list(FILTER tests EXCLUDE REGEX "/${excluded}$")
  endforeach()

  set(depends ss_options)
  foreach(module ${ARG_DEPENDS})
    list(APPEND depends ss_${module})
  endforeach()
  if(sources)
    add_library(ss_${name} STATIC ${sources})
    target_link_libraries(ss_${name} PUBLIC ${depends} ${ARG_LIBRARIES})
    ss_unity(ss_${name})
  else()
    add_library(ss_${name} INTERFACE)
    target_link_libraries(ss_${name} INTERFACE ${depends} ${ARG_LIBRARIES})
  endif()

  if(SS_BUILD_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE ss_${name})
    ss_unity(${name}_test)
    ss_gtest(${name}_test unit)
  endif()
  if(SS_BUILD_BENCH AND benches)
    find_package(benchmark REQUIRED)
    add_executable(${name}_bench ${benches})
    target_link_libraries(${name}_bench PRIVATE ss_${name} benchmark::benchmark_main)
  endif()
  if(SS_BUILD_FUZZ)
    foreach(source ${fuzzers})
      get_filename_component(target ${source} NAME_WE)
      add_executable(${target} ${source})
      target_compile_options(${target} PRIVATE -fsanitize=fuzzer)
      target_link_options(${target} PRIVATE -fsanitize=fuzzer)
      target_link_libraries(${target} PRIVATE ss_${name})
    endforeach()
  endif()
endfunction()
