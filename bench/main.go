// Command bench measures gophersnake beside other WSGI servers.
package main

func main() {}
