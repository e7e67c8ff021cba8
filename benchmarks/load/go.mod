module cagebuild.dev/benchmarks/load

go 1.26
