module kernelprobe

go 1.26
