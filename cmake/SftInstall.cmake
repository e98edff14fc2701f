# cmake --install build/release --prefix DIR: bin/sft-dist, bin/sft-inspect, bin/sft-prepare and bin/sft-run, and what they need in share/sft-dist.
# LibTorch stays where it is; a Python environment is made by share/sft-dist/launch/setup, or named in SFT_VENV.
include(GNUInstallDirs)
set(share ${CMAKE_INSTALL_DATADIR}/sft-dist)

set_target_properties(sft-dist PROPERTIES INSTALL_RPATH "${SFT_TORCH_LIBRARY_DIR}")
install(TARGETS sft-dist sft-inspect RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(PROGRAMS launch/run launch/sft-run launch/setup launch/sft-prepare DESTINATION ${share}/launch)
install(FILES launch/common.sh launch/doctor.py launch/tagged.py launch/restarts.ini launch/requirements.txt launch/requirements-full.txt
        DESTINATION ${share}/launch)
install(DIRECTORY src/prepare DESTINATION ${share}/src FILES_MATCHING PATTERN "*.py" PATTERN "*.jinja" PATTERN __pycache__ EXCLUDE)
install(DIRECTORY configs DESTINATION ${share})
install(DIRECTORY cluster/slurm DESTINATION ${share}/cluster)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
install(CODE "
  set(bin \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}\")
  file(CREATE_LINK ../${share}/launch/sft-prepare \"\${bin}/sft-prepare\" SYMBOLIC)
  file(CREATE_LINK ../${share}/launch/sft-run \"\${bin}/sft-run\" SYMBOLIC)")
