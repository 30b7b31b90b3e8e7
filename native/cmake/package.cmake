# What is installed: the header, libedgekit.a or libedgekit.so, and what finds them: edgekit-config.cmake, edgekit.pc.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

foreach(part MAJOR MINOR)
  file(STRINGS include/edgekit.h line REGEX "define EK_VERSION_${part}")
  string(REGEX MATCH "[0-9]+$" EDGEKIT_${part} "${line}")
endforeach()
set(EDGEKIT_VERSION ${EDGEKIT_MAJOR}.${EDGEKIT_MINOR})

set(EDGEKIT_INSTALLED edgekit)
if(BUILD_SHARED_LIBS)
  get_target_property(objects edgekit SOURCES) # those of the kernels and encoders; it has its own besides
  list(FILTER objects INCLUDE REGEX TARGET_OBJECTS)
  add_library(edgekit_shared SHARED $<TARGET_OBJECTS:edgekit> ${objects})
  target_link_libraries(edgekit_shared PRIVATE m Threads::Threads)
  set_target_properties(edgekit_shared PROPERTIES LINKER_LANGUAGE C OUTPUT_NAME edgekit EXPORT_NAME edgekit
                                                  VERSION ${EDGEKIT_VERSION} SOVERSION ${EDGEKIT_VERSION})
  if(EDGEKIT_PAGE_SIZE)
    target_link_options(edgekit_shared PRIVATE -Wl,-z,max-page-size=16384)
  endif()
  target_include_directories(edgekit_shared INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
                                                      $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  set(EDGEKIT_INSTALLED edgekit_shared)
endif()
add_library(edgekit::edgekit ALIAS ${EDGEKIT_INSTALLED})

set(folder ${CMAKE_INSTALL_LIBDIR}/cmake/edgekit)
install(TARGETS ${EDGEKIT_INSTALLED} EXPORT edgekit-targets)
install(FILES include/edgekit.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT edgekit-targets NAMESPACE edgekit:: DESTINATION ${folder})
configure_package_config_file(cmake/edgekit-config.cmake.in edgekit-config.cmake INSTALL_DESTINATION ${folder})
write_basic_package_version_file(edgekit-config-version.cmake VERSION ${EDGEKIT_VERSION}
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/edgekit-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/edgekit-config-version.cmake DESTINATION ${folder})

# Relative to the file, so that the installed folder can be moved.
file(RELATIVE_PATH EDGEKIT_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/edgekit.pc.in edgekit.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/edgekit.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
