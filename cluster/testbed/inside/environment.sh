# What programs in the bed need: sourced after common.sh.
export SFT_TESTBED=$BED
export SLURM_CONF=$BED/slurm.conf
export TMPDIR=$BED/private
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# mpirun without ssh.
export OMPI_MCA_plm_rsh_agent=$TESTBED_DIR/inside/agent
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_oob_tcp_if_include=$SUBNET.0/24 OMPI_MCA_btl_tcp_if_include=$SUBNET.0/24
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=tcp,vader,self
# All hosts share the machine's few cores.
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
# A lost host is noticed within 11 seconds.
export OMPI_MCA_oob_tcp_keepalive_time=5 OMPI_MCA_oob_tcp_keepalive_intvl=2 OMPI_MCA_oob_tcp_keepalive_probes=3
