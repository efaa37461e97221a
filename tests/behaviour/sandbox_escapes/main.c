// A handler whose client chooses an attempt and its context, in one line: NAME KEY=VALUE ….

ATTEMPT(echo) { say("echo: served\n"); }

int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "print_rights")) {
        print_rights();
        return 0;
    }
    static char line[8192];
    size_t length = 0;
    while (length < sizeof line - 1 && read(0, line + length, 1) == 1 && line[length] != '\n')
        length++;
    line[length] = 0;
    char *rest, *name = strtok_r(line, " ", &rest);
    if (!name)
        return 2;
    for (char *word; (word = strtok_r(NULL, " ", &rest));)
        putenv(word);
    static char here[4096];
    snprintf(here, sizeof here, "%s", words[0]);
    if (strrchr(here, '/'))
        *strrchr(here, '/') = 0;
    setenv("HERE", here, 1);
    char script[4200];
    if (!strncmp(name, "sh:", 3)) {
        snprintf(script, sizeof script, "%s/attempts.sh", here);
        execl("/bin/sh", "sh", script, name + 3, NULL);
        return 3;
    }
    if (!strncmp(name, "py:", 3)) {
        snprintf(script, sizeof script, "%s/attempts.py", here);
        execl("/usr/bin/python3", "python3", "-SEs", script, name + 3, NULL);
        return 3;
    }
    for (struct attempt *it = all; it; it = it->next)
        if (!strcmp(it->name, name)) {
            it->run();
            say("end: end\n");
            return 0;
        }
    say("no attempt has the name %s\n", name);
    return 2;
}
