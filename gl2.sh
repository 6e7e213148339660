. /work/scratch/ci8/.venv/bin/activate; cd /work/scratch; n=0
for i in $(seq $2); do rm -f /tmp/gl2_$1; timeout 60 python gl2.py 1 /tmp/gl2_$1 $1 >/dev/null 2>/tmp/e1_$1 & timeout 60 python gl2.py 0 /tmp/gl2_$1 $1 >/dev/null 2>/tmp/e0_$1 || { n=$((n+1)); tail -1 /tmp/e0_$1; }; wait $! || { n=$((n+1)); }; done; echo $1 $n of $((2*$2))
