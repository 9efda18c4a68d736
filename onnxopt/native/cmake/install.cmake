# For C and C++ projects: find_package(onnxopt) gives onnxopt::onnxopt and, to be linked into a program,
# onnxopt::static; pkg-config knows onnxopt.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(onnxopt_static STATIC ${CORE})
target_link_libraries(onnxopt_static PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
set_target_properties(onnxopt_static PROPERTIES EXPORT_NAME static)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_BUILD_TYPE STREQUAL "Release")
  # What only this version of the compiler could link.
  add_custom_command(TARGET onnxopt_static POST_BUILD
                     COMMAND ${CMAKE_STRIP} -g -R .gnu.lto_* -R .gnu.debuglto_* -N __gnu_lto_v1 $<TARGET_FILE:onnxopt_static>)
endif()
if(NOT WIN32)  # where the shared library's import library has this name
  set_target_properties(onnxopt_static PROPERTIES OUTPUT_NAME onnxopt)
endif()

install(TARGETS onnxopt onnxopt_static EXPORT onnxopt INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES include/onnxopt.h include/onnxopt.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(PACKAGE ${CMAKE_INSTALL_LIBDIR}/cmake/onnxopt)
install(EXPORT onnxopt NAMESPACE onnxopt:: DESTINATION ${PACKAGE} FILE onnxopt-targets.cmake)
write_basic_package_version_file(onnxopt-config-version.cmake COMPATIBILITY SameMinorVersion)
set(CXX_RUNTIME -lstdc++)
if(APPLE)
  set(CXX_RUNTIME -lc++)
endif()
configure_file(cmake/onnxopt.pc.in onnxopt.pc @ONLY)
install(FILES cmake/onnxopt-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/onnxopt-config-version.cmake
        DESTINATION ${PACKAGE})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/onnxopt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
