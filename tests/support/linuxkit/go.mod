module linuxkit

go 1.26
