package pid1

const sysFinitModule = 313
